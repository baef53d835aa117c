package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/tests/expect"
)

// process is a program in a process group of its own. It dies with the thread that started it, at the latest with the
// test binary.
type process struct {
	command *exec.Cmd
	output  *expect.Buffer
	waited  chan struct{} // closed when it has ended
	waitErr error         // set before waited is closed
}

func startProcess(t testing.TB, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(name, args...), output: &expect.Buffer{}, waited: make(chan struct{})}
	p.command.Env = env
	p.command.Dir = os.TempDir()
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.command.Stdout, p.command.Stderr = p.output, p.output
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.waitErr = p.command.Wait()
		close(p.waited)
	}()
	return p
}

func (p *process) pid() int { return p.command.Process.Pid }

// ended tells whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.waited:
		return true
	default:
		return false
	}
}

// signal sends a signal to the process alone.
func (p *process) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.pid(), signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal %v: %v", signal, err)
	}
}

// kill kills the process and its children at once.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(-p.pid(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("kill: %v", err)
	}
	<-p.waited
}

// stop asks the process to end, and kills it when it has not after limit. It returns how it ended.
func (p *process) stop(t testing.TB, limit time.Duration) error {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	select {
	case <-p.waited:
		return p.waitErr
	case <-time.After(limit):
		p.kill(t)
		return fmt.Errorf("it still ran %v after it was asked to stop", limit)
	}
}

// environment is what programs under test see: known keys, no foreign configuration.
func environment(endpoint string, more ...string) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		foreign := false
		for _, prefix := range []string{"AWS_", "HOLDFAST_", "RCLONE_", "RESTIC_"} {
			foreign = foreign || strings.HasPrefix(name, prefix)
		}
		if !foreign {
			env = append(env, pair)
		}
	}
	env = append(env,
		"AWS_ACCESS_KEY_ID="+AccessKey, "AWS_SECRET_ACCESS_KEY="+SecretKey, "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=3", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"HOLDFAST_ACCESS_KEY="+AccessKey, "HOLDFAST_SECRET_KEY="+SecretKey, "HOLDFAST_ENDPOINT="+endpoint)
	return append(env, more...)
}

// rootKey makes the keys of the environment the root access key of a new cluster.
var rootKey = []string{"HOLDFAST_ROOT_ACCESS_KEY=" + AccessKey, "HOLDFAST_ROOT_SECRET_KEY=" + SecretKey}

// runProgram runs a program to its end, for at most limit, and returns what it printed.
func runProgram(limit time.Duration, env []string, name string, args ...string) (stdout, all string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Env = env
	command.Dir = os.TempDir()
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	both := &expect.Buffer{}
	command.Stdout, command.Stderr = io.MultiWriter(&out, both), both
	err = command.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("still ran after %v: %w", limit, err)
	}
	return out.String(), both.String(), err
}

func tail(text string, most int) string {
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}
