package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	mountFile  = 1 << 30
	mountFiles = 2000
)

// inMount calls use with a directory of its own in the mount.
func (b *bench) inMount(use func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(b.options.mount, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return use(dir)
}

// throughMount measures a large file, written and read through the mount at --mount, each just after the same is done to
// objects: the speed of the machine changes by more than a mount costs.
func (b *bench) throughMount(ctx context.Context) error {
	return b.inMount(func(dir string) error {
		name, objects := filepath.Join(dir, "large"), b.itself()
		put, err := putAll(ctx, objects)
		if err != nil {
			return err
		}
		wrote, err := writeThrough(ctx, name)
		if err != nil {
			return err
		}
		b.addBeside("mount, write 1 GiB", wrote, put, "PUT")
		got, err := getAll(ctx, objects)
		if err != nil {
			return err
		}
		cold := ""
		if err := b.chill(); err != nil {
			cold = ", maybe warm: " + err.Error()
		}
		read, err := readThrough(ctx, name)
		if err != nil {
			return err
		}
		b.addBeside("mount, read 1 GiB"+cold, read, got, "GET")
		return nil
	})
}

// addBeside adds a rate in MB/s whose bar is half of another, which was measured just before.
func (b *bench) addBeside(name string, rate, other float64, what string) {
	b.add(figure{Name: name, Value: rate, Unit: "MB/s", Bar: 0.5 * other, Beside: fmt.Sprintf("50 %% of %s MB/s, %s just before", amount(other), what)})
}

func writeThrough(ctx context.Context, name string) (float64, error) {
	block := randomBlock(1<<20, 7)
	began := time.Now()
	file, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	for n := 0; n < mountFile && ctx.Err() == nil; n += len(block) {
		if _, err := file.Write(block); err != nil {
			return 0, errors.Join(err, file.Close())
		}
	}
	// The file counts as written when it is published.
	if err := errors.Join(file.Close(), ctx.Err()); err != nil {
		return 0, err
	}
	return mountFile / 1e6 / time.Since(began).Seconds(), nil
}

func readThrough(ctx context.Context, name string) (rate float64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := forget(file); err != nil {
		return 0, err
	}
	began := time.Now()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{file}, make([]byte, 1<<20))
	if err == nil && n != mountFile {
		err = fmt.Errorf("read %d of %d bytes", n, int64(mountFile))
	}
	return mountFile / 1e6 / time.Since(began).Seconds(), errors.Join(err, ctx.Err())
}

// copyFiles copies 2,000 files of 4 KiB into the mount with cp -r.
func (b *bench) copyFiles(ctx context.Context) (err error) {
	source, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(source)) }()
	body := randomBlock(smallObject, 8)
	for i := range mountFiles {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("f%04d", i)), body, 0o600); err != nil {
			return err
		}
	}
	syncs, err := b.syncRateNow(ctx)
	if err != nil {
		return err
	}
	var took time.Duration
	err = b.inMount(func(dir string) error {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, "cp", "-r", source, filepath.Join(dir, "small")).CombinedOutput(); err != nil {
			return fmt.Errorf("cp -r: %w: %s", err, strings.TrimSpace(string(out)))
		}
		took = time.Since(began)
		return nil
	})
	if err != nil {
		return err
	}
	rate := mountFiles / took.Seconds()
	b.add(figure{Name: "mount, cp -r of 4 KiB files", Value: rate, Unit: "/s", Bar: min(500, 0.6*syncs),
		Beside: fmt.Sprintf("min(500, 0.6 x %s fsyncs/s just before)", amount(syncs))})
	return nil
}
