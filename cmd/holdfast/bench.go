package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

type benchOptions struct {
	client  clientOptions
	scratch string
	mount   string
	only    []string
	large   bool
	seconds int
	rounds  int
	json    bool
}

func newBench(s *session) *cobra.Command {
	o := benchOptions{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure speed and memory beside the limits of this machine",
		Long: `Measures a running store through its own S3 face, and through a mount when --mount names one, and prints beside
each figure what this machine can do at all, measured in the same run, and the bar that the figure should reach.
Makes a bucket of its own and removes it. Run it on the server's machine when nothing else runs there; --scratch must
be on the device that the drives are on. Exit code 3 when a bar is missed.`,
		Example: "  holdfast bench\n  holdfast bench --mount ./mnt --large",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runBench(cmd.Context(), s, &o) },
	}
	o.client.bind(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.scratch, "scratch", "", "`directory` for the machine's own limits (default: --dir)")
	flags.StringVar(&o.mount, "mount", "", "measure the mount at this `directory` too")
	flags.StringSliceVar(&o.only, "only", nil, "run these `measurements` alone: "+strings.Join(measurementNames(), ", "))
	flags.BoolVar(&o.large, "large", false, "list a million keys too (takes minutes to make them)")
	flags.IntVar(&o.seconds, "seconds", 5, "how long each steady load runs")
	flags.IntVar(&o.rounds, "rounds", 3, "how often what has a bar of speed is measured; the median counts")
	bindJSON(cmd, &o.json)
	return cmd
}

// figure is one line of the answer. Bar is what Value should reach (or stay under, for AtMost); 0 is none.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Bar    float64 `json:"bar,omitempty"`
	AtMost bool    `json:"at_most,omitempty"`
	// Beside says which limit the bar comes from.
	Beside string `json:"beside,omitempty"`
}

func (f figure) met() bool {
	switch {
	case f.Bar == 0:
		return true
	case f.AtMost:
		return f.Value <= f.Bar
	}
	return f.Value >= f.Bar
}

// bench is one run.
type bench struct {
	session *session
	options *benchOptions
	s3      *s3.Client
	wire    *wire
	admin   *admin.Client
	bucket  string
	limits  limits
	figures []figure
	// large tells that the large objects are there.
	large bool
}

func runBench(ctx context.Context, s *session, o *benchOptions) error {
	if o.seconds < 1 {
		return usageError(errors.New("--seconds is at least 1"))
	}
	if o.rounds < 1 {
		return usageError(errors.New("--rounds is at least 1"))
	}
	for _, name := range o.only {
		if !slices.Contains(measurementNames(), name) {
			return usageError(fmt.Errorf("--only: no measurement is called %q", name))
		}
	}
	// What the clients take of the cores, the server lacks.
	s.tuneRuntime()
	ctx, stop := context.WithCancel(ctx)
	var calm sync.WaitGroup
	calm.Go(func() { steady(ctx) })
	defer calm.Wait()
	defer stop()
	b := &bench{session: s, options: o, bucket: "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	var err error
	if b.s3, err = s.s3Client(&o.client); err != nil {
		return err
	}
	if b.wire, err = s.wireClient(&o.client); err != nil {
		return err
	}
	if b.admin, err = s.adminClient(&o.client); err != nil {
		return err
	}
	if err := errors.Join(b.run(ctx), b.wire.close()); err != nil {
		return s3Error(o.client.endpoint, err)
	}
	if err := b.print(); err != nil {
		return err
	}
	for _, f := range b.figures {
		if !f.met() {
			return errUnsound
		}
	}
	return nil
}

func (b *bench) run(ctx context.Context) (err error) {
	if _, err := b.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &b.bucket}); err != nil {
		return err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		_, emptyErr := removeBelow(clean, b.s3, place{bucket: b.bucket}, false)
		_, dropErr := b.s3.DeleteBucket(clean, &s3.DeleteBucketInput{Bucket: &b.bucket})
		err = errors.Join(err, emptyErr, dropErr)
	}()
	for _, m := range measurements {
		if m.mounted && b.options.mount == "" || len(b.options.only) > 0 && m.name != "" && !slices.Contains(b.options.only, m.name) {
			continue
		}
		if _, err := fmt.Fprintf(b.session.err, "measuring %s ...\n", m.what); err != nil {
			return err
		}
		if err := b.measure(ctx, m); err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
	}
	return nil
}

// measure makes one measurement, several times where others on the machine would show in it, each time beside what the
// machine can do just then. Of each figure the one is kept that is the median of how far they are from their bars.
func (b *bench) measure(ctx context.Context, m measurement) error {
	if !m.repeat {
		return m.run(b, ctx)
	}
	before := len(b.figures)
	for range b.options.rounds {
		if m.disk {
			if err := b.diskNow(ctx); err != nil {
				return err
			}
		}
		if err := m.run(b, ctx); err != nil {
			return err
		}
	}
	b.keepMedians(before)
	return nil
}

// keepMedians keeps of the figures from there on one of each name.
func (b *bench) keepMedians(before int) {
	rounds := map[string][]figure{}
	var names []string
	for _, f := range b.figures[before:] {
		if rounds[f.Name] == nil {
			names = append(names, f.Name)
		}
		rounds[f.Name] = append(rounds[f.Name], f)
	}
	b.figures = b.figures[:before]
	for _, name := range names {
		b.add(median(rounds[name]))
	}
}

// median is the one in the middle, the worse of the two when their number is even.
func median(same []figure) figure {
	slices.SortFunc(same, func(x, y figure) int { return cmp.Compare(x.Value*y.Bar, y.Value*x.Bar) })
	f := same[(len(same)-1)/2]
	if len(same) > 1 {
		f.Beside += fmt.Sprintf("; median of %d", len(same))
	}
	return f
}

// measurement is one step of a run. One without a name always runs: others take their bars from it.
type measurement struct {
	name, what string
	mounted    bool // needs a mount
	repeat     bool // is made --rounds times
	disk       bool // its bar comes from the speed of the disk
	run        func(*bench, context.Context) error
}

// measurements stand in the order in which they disturb each other least: those that write gigabytes come last.
var measurements = []measurement{
	{name: "idle", what: "idle memory", run: (*bench).idle},
	{what: "the machine's own limits", run: (*bench).measureLimits},
	{name: "put-small", what: "PUT of 4 KiB", repeat: true, run: (*bench).putSmall},
	{name: "list", what: "LIST", run: (*bench).list},
	{name: "mount-small", what: "cp -r of 4 KiB files", mounted: true, repeat: true, run: (*bench).copyFiles},
	{name: "idle-replicas", what: "1,000 idle replicas", run: (*bench).idleReplicas},
	{name: "put", what: "PUT of 64 MiB", repeat: true, disk: true, run: (*bench).putLarge},
	{name: "get", what: "GET of 64 MiB", repeat: true, disk: true, run: (*bench).getLarge},
	{name: "first-byte", what: "first byte", run: (*bench).firstByte},
	{name: "range", what: "4 KiB range", run: (*bench).smallRange},
	{name: "cluster", what: "a cluster of three peers", run: (*bench).cluster},
	{name: "mount", what: "a mounted file of 1 GiB", mounted: true, repeat: true, run: (*bench).throughMount},
	{name: "memory", what: "64 PUTs at once", run: (*bench).manyPuts},
}

func measurementNames() []string {
	var names []string
	for _, m := range measurements {
		if m.name != "" {
			names = append(names, m.name)
		}
	}
	return names
}

func (b *bench) add(f figure) { b.figures = append(b.figures, f) }

func (b *bench) print() error {
	if b.options.json {
		return b.session.printJSON(struct {
			Version string   `json:"version"`
			Cores   int      `json:"cores"`
			Limits  limits   `json:"limits"`
			Figures []figure `json:"figures"`
		}{version, runtime.NumCPU(), b.limits, b.figures})
	}
	t := newTable("THIS MACHINE", "", fmt.Sprintf("%d cores", runtime.NumCPU()))
	for _, f := range b.limits.rows() {
		t.add(f.Name, amount(f.Value), f.Unit)
	}
	if err := t.print(b.session.out); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(b.session.out); err != nil {
		return err
	}
	t = newTable("HOLDFAST", "", "", "BAR", "OF BAR", "", "BESIDE")
	for _, f := range b.figures {
		bar, ratio, verdict := "", "", ""
		if f.Bar > 0 {
			sign := "≥ "
			if f.AtMost {
				sign = "≤ "
			}
			bar = sign + amount(f.Bar)
			ratio = fmt.Sprintf("%.0f %%", 100*f.Value/f.Bar)
			if verdict = "ok"; !f.met() {
				verdict = "MISSED"
			}
		}
		t.add(f.Name, amount(f.Value), f.Unit, bar, ratio, verdict, f.Beside)
	}
	return t.print(b.session.out)
}

// amount writes a number with three significant digits or none behind the point.
func amount(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// idle asks for the memory of the server before any load.
func (b *bench) idle(ctx context.Context) error {
	st, err := b.admin.Status(ctx)
	if err != nil {
		return err
	}
	if !st.Ready {
		return errors.New("the store is not ready")
	}
	// A server that has served keeps memory for the next load: the bar holds for a fresh one.
	f := figure{Name: "idle memory", Value: mega(st.Memory.Resident), Unit: "MB"}
	if st.Traffic.Written+st.Traffic.Read == 0 {
		f.Bar, f.AtMost = 100, true
	} else {
		f.Beside = "not fresh: it has served since it started"
	}
	b.add(f)
	return nil
}

func mega(n int64) float64 { return float64(n) / 1e6 }

// measureLimits measures what the machine can do without holdfast.
func (b *bench) measureLimits(ctx context.Context) error {
	return b.inScratch(func(dir string) (err error) {
		b.limits, err = measure(ctx, dir)
		return err
	})
}

// syncRateNow lets the device finish what was written before and measures its fsync rate again: on a shared machine it
// drifts by the minute, and a figure is worth only what stands beside it.
func (b *bench) syncRateNow(ctx context.Context) (rate float64, err error) {
	unix.Sync()
	err = b.inScratch(func(dir string) (err error) {
		rate, err = syncRate(ctx, filepath.Join(dir, "sync"))
		return err
	})
	return rate, err
}

// diskNow measures the disk again, for the bar of what is measured next.
func (b *bench) diskNow(ctx context.Context) error {
	return b.inScratch(func(dir string) (err error) {
		b.limits.Write, b.limits.Read, err = diskRates(ctx, filepath.Join(dir, "disk"))
		return err
	})
}

// inScratch calls use with a directory on the drives' device.
func (b *bench) inScratch(use func(dir string) error) (err error) {
	dir := cmp.Or(b.options.scratch, b.options.client.dir)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("scratch directory: %w; name one on the drives' device with --scratch", err)
	}
	temporary, err := os.MkdirTemp(dir, "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temporary)) }()
	return use(temporary)
}

// discard reads a body to its end and closes it.
func discard(body io.ReadCloser) (int64, error) {
	n, err := io.Copy(io.Discard, body)
	return n, errors.Join(err, body.Close())
}
