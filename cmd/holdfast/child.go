package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/fusefs"
)

const (
	// mountDeadline is how long a mount may take to come up.
	mountDeadline = 30 * time.Second
	// childPatience is how long a mount may take to publish what is closed and unmount, before it is killed.
	childPatience = 75 * time.Second
	// childFD is the first descriptor after the three standard ones, where exec puts the first extra file.
	childFD = 3
)

// noFuseMark begins what a child says when this machine, not the command, is why nothing can be mounted.
const noFuseMark = "no fuse: "

// errNoFuse is that answer for the parent.
var errNoFuse = errors.New("this machine offers no mounts")

// notifier tells a parent process once how the start went: a line "ok", or the error.
type notifier struct {
	once sync.Once
	file *os.File
}

func newNotifier(fd int) *notifier {
	if fd <= 0 {
		return &notifier{}
	}
	return &notifier{file: os.NewFile(uintptr(fd), "ready")}
}

func (n *notifier) tell(err error) error {
	if n.file == nil {
		return nil
	}
	var result error
	n.once.Do(func() {
		text := "ok\n"
		switch {
		case errors.Is(err, fusefs.ErrNoFuse), errors.Is(err, syscall.EPERM):
			text = noFuseMark + err.Error() + "\n"
		case err != nil:
			text = err.Error() + "\n"
		}
		_, writeErr := io.WriteString(n.file, text)
		result = errors.Join(writeErr, n.file.Close())
	})
	return result
}

// await reads what a child tells.
func await(r *os.File, limit time.Duration) error {
	if err := r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxNotice))
	switch line := strings.TrimSpace(string(text)); {
	case line == "ok":
		return nil
	case strings.HasPrefix(line, noFuseMark):
		return fmt.Errorf("%w: %s", errNoFuse, strings.TrimPrefix(line, noFuseMark))
	case line != "":
		return errors.New(line)
	case err != nil:
		return fmt.Errorf("the mount did not come up: %w", err)
	}
	return errors.New("the mount ended before it was up")
}

// maxNotice bounds what a child says, in bytes.
const maxNotice = 64 << 10

// daemonize starts this command again in the background and waits until its mount is up.
func (s *session) daemonize(o *mountOptions, source, at string) error {
	key, err := s.config.clientKey(o.client.dir)
	if err != nil {
		return err
	}
	child, ready, err := mountCommand(o, source, at, key)
	if err != nil {
		return err
	}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return errors.Join(err, ready.close())
	}
	if err := ready.wait(mountDeadline); err != nil {
		return errors.Join(err, child.Wait())
	}
	if _, err := fmt.Fprintf(s.out, "%s is at %s. To take it away: holdfast umount %s\n", source, at, at); err != nil {
		return err
	}
	return child.Process.Release()
}

// readiness is the pipe that a child tells on.
type readiness struct{ read, write *os.File }

func (r *readiness) close() error { return errors.Join(r.read.Close(), r.write.Close()) }

// wait closes the parent's copy of the writing end, so that a child that dies ends the read.
func (r *readiness) wait(limit time.Duration) error {
	if err := r.write.Close(); err != nil {
		return err
	}
	err := await(r.read, limit)
	return errors.Join(err, r.read.Close())
}

// mountCommand builds `holdfast mount` for a child. Keys go through its environment, where other users cannot read
// them as they can a command line.
func mountCommand(o *mountOptions, source, at string, key *peer.Credentials) (*exec.Cmd, *readiness, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	dir, err := filepath.Abs(o.client.dir)
	if err != nil {
		return nil, nil, err
	}
	ca := o.client.ca
	if ca != "" {
		if ca, err = filepath.Abs(ca); err != nil {
			return nil, nil, err
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	args := []string{"mount", fmt.Sprintf("--ready-fd=%d", childFD), "--endpoint=" + o.client.endpoint, "--dir=" + dir,
		"--ca=" + ca, fmt.Sprintf("--read-only=%t", o.readOnly), fmt.Sprintf("--allow-other=%t", o.allowOther),
		"--uid=" + o.uid, "--gid=" + o.gid, "--umask=" + o.umask, "--memory=" + o.memory}
	for _, option := range o.options {
		args = append(args, "-o", option)
	}
	// The child lives by signals, not by a context: it must unmount before it ends.
	command := exec.Command(self, append(args, source, at)...)
	command.Env = append(os.Environ(), "HOLDFAST_ACCESS_KEY="+key.AccessKey, "HOLDFAST_SECRET_KEY="+string(key.Secret))
	command.ExtraFiles = []*os.File{write}
	command.Dir = "/"
	return command, &readiness{read, write}, nil
}

// mountChild is the mount that `up` runs. The nil child is none.
type mountChild struct {
	at      string
	command *exec.Cmd
	done    chan struct{}
	result  error // of Wait, once done is closed
}

// startMount starts the mount of `up` and waits until it is there. The child gets SIGTERM when this process dies, so
// no mount without a server is left behind.
func (s *session) startMount(p *peer.Peer, serve *serveOptions, at string) (*mountChild, error) {
	o := &mountOptions{allowOther: os.Geteuid() == 0}
	o.client = clientOptions{endpoint: p.Endpoint(), dir: serve.dir, ca: serve.tlsCert}
	command, ready, err := mountCommand(o, homeBucket, at, p.RootKey())
	if err != nil {
		return nil, err
	}
	command.Stdout, command.Stderr = s.err, s.err
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	child := &mountChild{at: at, command: command, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child ends, so the thread is kept.
		runtime.LockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			child.result = command.Wait()
		}
		close(child.done)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start the mount: %w", err), ready.close())
	}
	if err := ready.wait(mountDeadline); err != nil {
		<-child.done // it ends after it told why
		return nil, fmt.Errorf("mount: %w", err)
	}
	return child, nil
}

// stop asks the mount to unmount, and waits for it.
func (c *mountChild) stop() error {
	if c == nil {
		return nil
	}
	if err := c.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the mount: %w", err)
	}
	timer := time.NewTimer(childPatience)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err()
	case <-timer.C:
	}
	err := fmt.Errorf("the mount at %s did not end in %v and was killed", c.at, childPatience)
	if killErr := c.command.Process.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		return errors.Join(err, killErr)
	}
	<-c.done
	return err
}

// ended is closed when the mount's process has ended; nil, which blocks for ever, when there is no mount.
func (c *mountChild) ended() <-chan struct{} {
	if c == nil {
		return nil
	}
	return c.done
}

// err is how the mount's process ended.
func (c *mountChild) err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	if c.result != nil {
		return fmt.Errorf("mount process: %w", c.result)
	}
	return nil
}
