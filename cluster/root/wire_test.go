package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/wire"
	"github.com/holdfast/holdfast/tests/expect"
)

// frameOf is a whole frame.
func frameOf(kind byte, payload []byte) []byte {
	return frameFormat.End(append(frameFormat.Begin(nil), payload...), kind)
}

// samples are one frame of everything that goes between peers.
func samples() (names []string, frames map[string][]byte) {
	frames = map[string][]byte{}
	add := func(name string, kind byte, payload []byte) {
		names = append(names, name)
		frames[name] = frameOf(kind, payload)
	}
	nonce := bytes.Repeat([]byte{9}, nonceSize)
	add("question propose", kindQuestion, command{nonce: nonce, counter: Blocks, count: 1}.encode())
	add("question row", kindQuestion, appendText([]byte{byte(Users)}, "alice"))
	add("question rows", kindQuestion, Query{Groups, "p", "p1", 300}.encode(nil))
	add("rows", kindRows, Row{Drives, "", nil, 0}.encode(Row{Peers, "p1", []byte("v\x00"), 300}.encode(nil)))
	add("answer", kindAnswer, answer{first: 300}.encode(nil))
	for _, s := range sentinels {
		add(fmt.Sprintf("error %d", s.code), kindAnswer, answer{err: s.err}.encode(nil))
	}
	add("error with a leader", kindAnswer, answer{err: NotLeader{Peer: cluster.PeerID{1, 15: 2}}}.encode(nil))
	add("error of no number", kindAnswer, answer{err: context.Canceled}.encode(nil))
	return names, frames
}

// TestBytesStayAsTheyWere compares every byte of the protocol with the golden file of its format.
func TestBytesStayAsTheyWere(t *testing.T) {
	names, frames := samples()
	var have bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&have, "%s: %x\n", name, frames[name])
	}
	expect.Golden(t, "format-1.golden", have.Bytes())
}

// TestErrorsKeepTheirMeaning sends every sentinel, alone and wrapped, and what has no number.
func TestErrorsKeepTheirMeaning(t *testing.T) {
	trip := func(err error) error {
		a, bad := decodeAnswer(answer{err: err}.encode(nil))
		if bad != nil {
			t.Fatal(bad)
		}
		return a.err
	}
	for _, s := range sentinels {
		err := trip(fmt.Errorf("here: %w", s.err))
		for _, other := range sentinels {
			if errors.Is(err, other.err) != (other == s) {
				t.Errorf("%v became %v, which is %v: %v", s.err, err, other.err, errors.Is(err, other.err))
			}
		}
		if err.Error() != "here: "+s.err.Error() {
			t.Errorf("text %q", err)
		}
	}
	leader := cluster.PeerID{7}
	if err := trip(fmt.Errorf("%w: %w", NotLeader{Peer: leader}, raft.ErrStopped)); hintOf(err) != leader ||
		!errors.Is(err, raft.ErrNotLeader) || !errors.Is(err, raft.ErrStopped) {
		t.Errorf("a hint became %v", err)
	}
	if err := trip(context.Canceled); errors.Is(err, context.Canceled) || !errors.Is(err, errElsewhere) {
		t.Errorf("a context that ended there became %v", err)
	}
	if err := trip(errors.New(strings.Repeat("x", 2*maxText))); len(err.Error()) != maxText {
		t.Errorf("a text of %d bytes", len(err.Error()))
	}
}

// TestHurtAndForeignQuestionsAreRefused wants a status of the four hundreds, and that nothing was asked.
func TestHurtAndForeignQuestionsAreRefused(t *testing.T) {
	h := Handler(nil) // would panic when asked
	_, frames := samples()
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	good := frames["question row"]
	nonce := make([]byte, nonceSize)
	for name, try := range map[string]struct {
		method, path string
		body         []byte
		status       int
	}{
		"unknown":        {"POST", "drop", good, 404},
		"get":            {"GET", rowPath, good, 405},
		"empty":          {"POST", rowPath, nil, 413},
		"too long":       {"POST", proposePath, make([]byte, MaxBody+1), 413},
		"other magic":    {"POST", rowPath, flip(good, 0), 400},
		"other format":   {"POST", rowPath, flip(good, 2), 400},
		"another kind":   {"POST", rowPath, frameOf(kindRows, good[frameHead:]), 400},
		"damaged head":   {"POST", rowPath, flip(good, 8), 400},
		"damaged":        {"POST", rowPath, flip(good, len(good)-1), 400},
		"cut":            {"POST", rowPath, good[:len(good)-1], 400},
		"row for rows":   {"POST", rowsPath, good, 400},
		"rows for row":   {"POST", rowPath, frames["question rows"], 400},
		"no command":     {"POST", proposePath, good, 400},
		"no numbers":     {"POST", proposePath, frameOf(kindQuestion, command{nonce: nonce, counter: Any}.encode()), 400},
		"all numbers":    {"POST", proposePath, frameOf(kindQuestion, command{nonce: nonce, counter: Any, count: 1 << 63}.encode()), 400},
		"a long name":    {"POST", proposePath, frameOf(kindQuestion, command{nonce: nonce, changes: []change{{row: Row{Name: strings.Repeat("n", MaxName+1)}}}}.encode()), 400},
		"one row twice":  {"POST", proposePath, frameOf(kindQuestion, command{nonce: nonce, changes: make([]change, 2)}.encode()), 400},
		"an endless row": {"POST", rowPath, frameOf(kindQuestion, []byte{byte(Users), 0xff, 0xff, 0xff, 0xff, 0x7f, 'a'}), 400},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(try.method, PathPrefix+try.path, bytes.NewReader(try.body)))
		if w.Code != try.status {
			t.Errorf("%s: status %d, want %d: %s", name, w.Code, try.status, w.Body)
		}
	}
}

// TestLargeAnswersArrive reads more rows than fit a frame, the largest row, and more than is read at once.
func TestLargeAnswersArrive(t *testing.T) {
	e := newEnsemble(t, 1, 2)
	server := httptest.NewServer(e.peer(1).handler)
	defer server.Close()
	client := At(Remote(server.Client(), server.URL+"/"))
	var want []Row
	for i := range 9000 {
		want = append(want, Row{Kind: Groups, Name: fmt.Sprintf("%08d", i), Value: bytes.Repeat([]byte{byte(i)}, 200)})
	}
	put, err := client.PutRows(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	have, err := client.Rows(t.Context(), Groups, "", "", 0)
	if err != nil || !reflect.DeepEqual(have, put) {
		t.Fatalf("%d rows of %d: %v", len(have), len(put), err)
	}
	if have, err = client.Rows(t.Context(), Groups, "0000", "00004999", 2500); err != nil || !reflect.DeepEqual(have, put[5000:7500]) {
		t.Fatalf("%d rows: %v", len(have), err)
	}
	big := Row{Kind: Cluster, Name: strings.Repeat("n", MaxName), Value: make([]byte, MaxValue)}
	if _, err := client.PutRow(t.Context(), big); err != nil {
		t.Fatal(err)
	}
	if row, err := client.Row(t.Context(), big.Kind, big.Name); err != nil || len(row.Value) != MaxValue || row.Revision != 1 {
		t.Fatalf("%d bytes of revision %d: %v", len(row.Value), row.Revision, err)
	}
	b := e.state.db.NewBatch()
	for i := range maxRows>>20 + 1 {
		b.Put(rowKey(Buckets, fmt.Sprintf("%03d", i)), encodeRow(Row{Value: make([]byte, MaxValue)}, make([]byte, nonceSize)))
	}
	if err := e.state.db.Write(b); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Client{client, e.peer(2).client, NewClient(e.peer(1))} {
		if _, err := c.Rows(t.Context(), Buckets, "", "", 0); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("all of %d MiB: %v", maxRows>>20, err)
		}
	}
	if rows, err := client.Rows(t.Context(), Buckets, "", "", 20); err != nil || len(rows) != 20 || len(rows[19].Value) != MaxValue {
		t.Fatalf("%d rows: %v", len(rows), err)
	}
}

// answering is a peer that answers with these bytes.
type answering []byte

// Do implements Doer.
func (a answering) Do(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(a))}, nil
}

// TestAnswersThatAreNoneAreLost reads answers that end early, that are damaged, or to another question.
func TestAnswersThatAreNoneAreLost(t *testing.T) {
	_, frames := samples()
	var large bytes.Buffer
	row := frameOf(kindRows, Row{Value: make([]byte, MaxValue)}.encode(nil))
	for range maxRows>>20 + 1 {
		large.Write(row)
	}
	large.Write(frames["answer"])
	for name, body := range map[string][]byte{
		"nothing":       nil,
		"no last frame": frames["rows"],
		"no such kind":  frameOf(9, nil),
		"empty rows":    append(frameOf(kindRows, nil), frames["answer"]...),
		"a long frame":  frameOf(kindRows, make([]byte, maxAnswer+1)),
		"half a row":    append(frameOf(kindRows, []byte{byte(Users), 1, 5, 'a'}), frames["answer"]...),
		"a bad leader":  frameOf(kindAnswer, []byte{1, 0, 0, 3, 'a', 'b', 'c', 0}),
		"too much":      large.Bytes(),
	} {
		s := Remote(answering(body), "http://peer")
		_, err := s.Propose(t.Context(), nil)
		_, rowsErr := s.Rows(t.Context(), Query{Kind: Users})
		if !errors.Is(err, raft.ErrUnknownOutcome) || rowsErr == nil || errors.Is(rowsErr, raft.ErrUnknownOutcome) {
			t.Errorf("%s: %v and %v", name, err, rowsErr)
		}
	}
	two := answering(append(bytes.Clone(frames["rows"]), frames["answer"]...))
	if _, err := Remote(two, "http://peer").Row(t.Context(), Peers, "p1"); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("two rows for one: %v", err)
	}
	if rows, err := Remote(two, "http://peer").Rows(t.Context(), Query{Kind: Peers}); err != nil || len(rows) != 2 {
		t.Errorf("%+v %v", rows, err)
	}
	refused := answering(frameOf(kindAnswer, answer{err: kv.ErrBroken}.encode(nil)))
	if _, err := Remote(refused, "http://peer").Propose(t.Context(), nil); !errors.Is(err, kv.ErrBroken) || errors.Is(err, raft.ErrUnknownOutcome) {
		t.Errorf("an error that the peer knows of: %v", err)
	}
}

// FuzzQuestion gives any bytes to the handler: it refuses them, or asks.
func FuzzQuestion(f *testing.F) {
	_, frames := samples()
	for _, frame := range frames {
		f.Add(frame[3], frame[frameHead:])
	}
	e := nothingThere{}
	h := Handler(e)
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		for _, path := range []string{proposePath, rowPath, rowsPath} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("POST", PathPrefix+path, bytes.NewReader(frameOf(kind, payload))))
			if w.Code == http.StatusOK {
				if _, _, err := readAnswer(w.Body); err != nil {
					t.Fatal(err)
				}
			} else if w.Code != http.StatusBadRequest {
				t.Fatalf("status %d", w.Code)
			}
		}
	})
}

// nothingThere is a seat with no rows, which takes every command that the machine can read.
type nothingThere struct{}

func (nothingThere) Propose(_ context.Context, command []byte) (uint64, error) {
	if _, err := decode(command); err != nil {
		panic(err)
	}
	return 1, nil
}
func (nothingThere) Row(context.Context, Kind, string) (Row, error) { return Row{}, ErrNotFound }
func (nothingThere) Rows(context.Context, Query) ([]Row, error)     { return nil, nil }

// FuzzAnswer reads any bytes: an error, or an answer that means the same again.
func FuzzAnswer(f *testing.F) {
	_, frames := samples()
	for _, frame := range frames {
		f.Add(frame)
		f.Add(append(bytes.Clone(frames["rows"]), frame...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, a, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		frame := frameFormat.Begin(nil)
		for _, row := range rows {
			frame = row.encode(frame)
		}
		var again []byte
		if len(rows) > 0 {
			again = append(again, frameFormat.End(frame, kindRows)...)
		}
		again = append(again, frameOf(kindAnswer, a.encode(nil))...)
		rowsAgain, aAgain, err := readAnswer(bytes.NewReader(again))
		if err != nil || fmt.Sprint(rowsAgain, aAgain.first, aAgain.err) != fmt.Sprint(rows, a.first, a.err) {
			t.Fatalf("%v %v came back as %v %v, %v", rows, a, rowsAgain, aAgain, err)
		}
	})
}
