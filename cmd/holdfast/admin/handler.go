package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/cluster/topology"
)

// Source is what the API shows: a peer that serves, or one that waits for its drives. Errors are sentences for the
// operator.
type Source interface {
	Status(ctx context.Context) (*Status, error)
	Drives(ctx context.Context) ([]Drive, error)
	Volumes(ctx context.Context) ([]Volume, error)
	// Token makes a join token that is good for so long, 0: for as long as is usual.
	Token(ctx context.Context, life time.Duration) (*Token, error)
	// ActOnPeer and ActOnDrive do one of Drain, Undrain, Remove. Force leaves out what asks for patience.
	ActOnPeer(ctx context.Context, peer, action string, force bool) (*Done, error)
	ActOnDrive(ctx context.Context, drive, action string, force bool) (*Done, error)
	// AddDrive makes a drive of a blank directory of this peer.
	AddDrive(ctx context.Context, path string) (*Done, error)
	// Set changes settings of the cluster.
	Set(ctx context.Context, settings Settings) (*Done, error)
	// Fsck hands each event to see and returns the report. An error of see ends it.
	Fsck(ctx context.Context, deep bool, see func(FsckEvent) error) (*FsckReport, error)
}

// Handler serves the API below Prefix. The caller has authenticated the request; allowed decides whether its
// principal may ask.
func Handler(source Source, allowed func(*http.Request) bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"status", answer(source.Status))
	mux.HandleFunc("GET "+Prefix+"drives", answer(source.Drives))
	mux.HandleFunc("GET "+Prefix+"volumes", answer(source.Volumes))
	mux.HandleFunc("POST "+Prefix+"token", func(w http.ResponseWriter, r *http.Request) {
		answer(func(ctx context.Context) (*Token, error) {
			life, err := parseLife(r.URL.Query().Get("life"))
			if err != nil {
				return nil, Declined(err)
			}
			return source.Token(ctx, life)
		})(w, r)
	})
	mux.HandleFunc("POST "+Prefix+"peer", act("peer", source.ActOnPeer))
	mux.HandleFunc("POST "+Prefix+"drive", act("drive", source.ActOnDrive))
	mux.HandleFunc("POST "+Prefix+"drives", func(w http.ResponseWriter, r *http.Request) {
		answer(func(ctx context.Context) (*Done, error) { return source.AddDrive(ctx, r.URL.Query().Get("path")) })(w, r)
	})
	mux.HandleFunc("POST "+Prefix+"settings", func(w http.ResponseWriter, r *http.Request) {
		answer(func(ctx context.Context) (*Done, error) {
			settings, err := parseSettings(r.URL.Query())
			if err != nil {
				return nil, Declined(err)
			}
			return source.Set(ctx, settings)
		})(w, r)
	})
	mux.HandleFunc("GET "+Prefix+"fsck", func(w http.ResponseWriter, r *http.Request) { serveFsck(source, w, r) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r) {
			http.Error(w, "only the root access key may ask this", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func parseLife(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}

// The numbers of Settings in a request.
const (
	votersQuery     = "voters"
	rootVotersQuery = "root_voters"
)

func parseSettings(q url.Values) (settings Settings, err error) {
	for name, into := range map[string]**int{votersQuery: &settings.Voters, rootVotersQuery: &settings.RootVoters} {
		if !q.Has(name) {
			continue
		}
		n, err := strconv.Atoi(q.Get(name))
		if err != nil {
			return Settings{}, fmt.Errorf("%s: %w", name, err)
		}
		*into = &n
	}
	return settings, nil
}

func act(what string, do func(ctx context.Context, name, action string, force bool) (*Done, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		answer(func(ctx context.Context) (*Done, error) {
			ctx, cancel := context.WithTimeout(ctx, actPatience)
			defer cancel()
			done, err := do(ctx, q.Get(what), q.Get("do"), q.Get("force") == "true")
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("not done within %v; ask again: %w", actPatience, err)
			}
			return done, err
		})(w, r)
	}
}

// actPatience is how long an action may take: longer than leaders need to be found, shorter than people wait.
const actPatience = 30 * time.Second

func answer[T any](ask func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := ask(r.Context())
		if err != nil {
			http.Error(w, err.Error(), statusOf(err))
			return
		}
		body, err := json.Marshal(value)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(append(body, '\n')); err != nil {
			return // the client went away
		}
	}
}

// statusOf is how an error of a Source is answered.
func statusOf(err error) int {
	switch {
	case errors.Is(err, topology.ErrUnknownPeer), errors.Is(err, topology.ErrUnknownDrive):
		return http.StatusNotFound
	case errors.Is(err, ErrDeclined):
		return http.StatusConflict
	}
	return http.StatusServiceUnavailable
}

func serveFsck(source Source, w http.ResponseWriter, r *http.Request) {
	deep := strings.EqualFold(r.URL.Query().Get("deep"), "true")
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	see := func(event FsckEvent) error {
		if err := encoder.Encode(event); err != nil {
			return err
		}
		return flush.Flush()
	}
	report, err := source.Fsck(r.Context(), deep, see)
	last := FsckEvent{Report: report}
	if err != nil {
		last = FsckEvent{Error: err.Error()}
	}
	if err := see(last); err != nil {
		return // the client went away; it sees a check without a report
	}
}
