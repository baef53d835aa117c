package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
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
				return nil, err
			}
			return source.Token(ctx, life)
		})(w, r)
	})
	mux.HandleFunc("POST "+Prefix+"peer", act("peer", source.ActOnPeer))
	mux.HandleFunc("POST "+Prefix+"drive", act("drive", source.ActOnDrive))
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

func act(what string, do func(ctx context.Context, name, action string, force bool) (*Done, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		answer(func(ctx context.Context) (*Done, error) {
			return do(ctx, q.Get(what), q.Get("do"), q.Get("force") == "true")
		})(w, r)
	}
}

func answer[T any](ask func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := ask(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
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
