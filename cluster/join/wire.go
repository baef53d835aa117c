package join

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// magic begins everything on the wire; its last digit is the format.
const magic = "HFJOIN01"

// Limits of what is read, in bytes.
const (
	// maxAsk: 256 drives with long paths. It is read only from who has proved to have a token.
	maxAsk = 512 << 10
	// maxAnswer: a list of 10,000 revoked ids, and some thousand peers.
	maxAnswer = 4 << 20
)

// What signatures are for: promises on the wire.
const (
	bindingLabel  = "EXPORTER-holdfast-join-1"
	possessionUse = "join possession"
	returnUse     = "join return"
)

var errWire = errors.New("not what joining peers and clusters say to each other")

// binding belongs to one TLS connection, and both its ends know it.
type binding [32]byte

func bindingOf(conn *tls.Conn) (binding, error) {
	state := conn.ConnectionState()
	material, err := state.ExportKeyingMaterial(bindingLabel, nil, len(binding{}))
	if err != nil {
		return binding{}, fmt.Errorf("bind to the connection: %w", err)
	}
	return binding(material), nil
}

// head is what a joining peer says first: enough to know that it has a token.
type head struct {
	token  trust.TokenID
	length uint32
	digest [sha256.Size]byte
	proof  trust.Proof
}

// headSize is all that is read from who has proved nothing; headSigned is where the proof begins.
const (
	headSigned = len(magic) + 8 + 4 + sha256.Size
	headSize   = headSigned + 64
)

func (h head) encode() []byte {
	b := append([]byte(magic), h.token[:]...)
	b = binary.LittleEndian.AppendUint32(b, h.length)
	b = append(b, h.digest[:]...)
	return append(b, h.proof[:]...)
}

func decodeHead(b []byte) (head, error) {
	var h head
	if len(b) != headSize || string(b[:len(magic)]) != magic {
		return h, fmt.Errorf("%w: it does not begin with %s", errWire, magic)
	}
	b = b[len(magic):]
	b = b[copy(h.token[:], b):]
	h.length = binary.LittleEndian.Uint32(b)
	b = b[4:]
	b = b[copy(h.digest[:], b):]
	copy(h.proof[:], b)
	if h.length > maxAsk {
		return h, fmt.Errorf("%w: it is to have %d bytes, at most %d", errWire, h.length, maxAsk)
	}
	return h, nil
}

// proven is what a token's proof signs: the head before it, on this connection.
func (h head) proven(b binding) []byte { return append(b[:], h.encode()[:headSigned]...) }

// possessed is what the new key signs: that it is there, on this connection, for this token.
func possessed(b binding, token trust.TokenID) []byte { return append(b[:], token[:]...) }

// returning is what an old key signs: that its peer comes back with the new key.
func returning(b binding, token trust.TokenID, key []byte) []byte {
	return append(possessed(b, token), key...)
}

// kind says what the cluster sends.
type kind byte

// The kinds: promises on the wire.
const (
	goOn    kind = 'g' // no body
	refused kind = 'n' // refusalWire
	granted kind = 'y' // answerWire
)

func writeMessage(w io.Writer, k kind, body []byte) error {
	b := append(make([]byte, 0, len(magic)+5+len(body)), magic...)
	b = binary.LittleEndian.AppendUint32(append(b, byte(k)), uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readMessage reads what writeMessage wrote. Memory grows with what arrives, not with what is announced.
func readMessage(r io.Reader) (kind, []byte, error) {
	var start [len(magic) + 5]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return 0, nil, err
	}
	k, length := kind(start[len(magic)]), binary.LittleEndian.Uint32(start[len(magic)+1:])
	if string(start[:len(magic)]) != magic || k != goOn && k != refused && k != granted || length > maxAnswer {
		return 0, nil, errWire
	}
	body, err := readBody(r, length)
	return k, body, err
}

func readBody(r io.Reader, length uint32) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err == nil && len(body) != int(length) {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

// askWire is an ask as JSON. Fields that are not known here are left out: a newer release may say more.
type askWire struct {
	Request    []byte      `json:"request"`
	Possession []byte      `json:"possession"`
	Before     []byte      `json:"before,omitempty"`
	Peer       string      `json:"peer,omitempty"`
	Again      bool        `json:"again,omitempty"`
	Clock      int64       `json:"clock"` // Unix, seconds
	Name       string      `json:"name"`
	Zone       string      `json:"zone,omitempty"`
	Rack       string      `json:"rack,omitempty"`
	Address    string      `json:"address"`
	Gossip     string      `json:"gossip"`
	S3         string      `json:"s3,omitempty"`
	TLS        bool        `json:"tls,omitempty"`
	Command    uint32      `json:"command,omitempty"`
	Drives     []driveWire `json:"drives,omitempty"`
}

type driveWire struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Path   string `json:"path"`
	Device uint64 `json:"device,omitempty"`
	Size   int64  `json:"size,omitempty"`
}

func (a *ask) encode() ([]byte, error) {
	w := askWire{
		Request: a.request, Possession: a.possession, Before: a.before, Again: a.Again, Clock: a.clock.Unix(), Name: a.Name, Zone: a.Zone,
		Rack: a.Rack, Address: a.PeerAddress, Gossip: a.Gossip, S3: a.S3, TLS: a.TLS, Command: a.Command,
	}
	if a.Peer != (cluster.PeerID{}) {
		w.Peer = a.Peer.String()
	}
	for _, d := range a.Drives {
		w.Drives = append(w.Drives, driveWire{d.ID.String(), d.Name, d.Path, d.Device, d.Size})
	}
	data, err := json.Marshal(w)
	if err == nil && len(data) > maxAsk {
		err = fmt.Errorf("%w: %d bytes, at most %d", ErrBadAsk, len(data), maxAsk)
	}
	return data, err
}

// decodeAsk reads what encode wrote, and checks it. The error is ErrBadAsk.
func decodeAsk(data []byte) (*ask, error) {
	var w askWire
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAsk, err)
	}
	a := &ask{request: w.Request, possession: w.Possession, before: w.Before, clock: time.Unix(w.Clock, 0), Ask: Ask{
		Again: w.Again, Name: w.Name, Zone: w.Zone, Rack: w.Rack, PeerAddress: w.Address, Gossip: w.Gossip, S3: w.S3, TLS: w.TLS, Command: w.Command,
	}}
	if len(w.Drives) > maxDrives {
		return nil, fmt.Errorf("%w: %d drives, at most %d", ErrBadAsk, len(w.Drives), maxDrives)
	}
	if w.Peer != "" {
		id, err := cluster.ParseID(w.Peer)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadAsk, err)
		}
		a.Peer = cluster.PeerID(id)
	}
	for _, d := range w.Drives {
		id, err := cluster.ParseID(d.ID)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadAsk, err)
		}
		a.Drives = append(a.Drives, topology.Drive{ID: cluster.DriveID(id), Name: d.Name, Path: d.Path, Device: d.Device, Size: d.Size})
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	var err error
	if a.key, err = trust.RequestedKey(a.request); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAsk, err)
	}
	return a, nil
}

// refusalWire is a refusal as JSON.
type refusalWire struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// answerWire is an Answer as JSON.
type answerWire struct {
	Peer         string     `json:"peer"`
	Number       uint16     `json:"number"`
	Returned     bool       `json:"returned,omitempty"`
	Certificate  []byte     `json:"certificate"` // DER
	List         []byte     `json:"list"`        // trust.List
	Gossip       []byte     `json:"gossip"`      // as in its row
	IntegrityKey []byte     `json:"integrity_key"`
	Epoch        uint64     `json:"epoch"`
	Peers        []peerWire `json:"peers"`
}

type peerWire struct {
	ID      string         `json:"id"`
	Number  uint16         `json:"number"`
	Name    string         `json:"name"`
	Zone    string         `json:"zone,omitempty"`
	Rack    string         `json:"rack,omitempty"`
	Address string         `json:"address"`
	Gossip  string         `json:"gossip,omitempty"`
	S3      string         `json:"s3,omitempty"`
	TLS     bool           `json:"tls,omitempty"`
	State   topology.State `json:"state"`
	Key     []byte         `json:"key"`
	Command uint32         `json:"command,omitempty"`
}

// encodeAnswer writes an answer; certificate is the DER of the credentials that the other side completes.
func encodeAnswer(a *Answer, certificate []byte) ([]byte, error) {
	w := answerWire{
		Peer: a.Peer.String(), Number: a.Number, Returned: a.Returned, Certificate: certificate, List: a.List.Marshal(),
		Gossip: marshalGossip(a.Gossip), IntegrityKey: a.IntegrityKey[:], Epoch: uint64(a.Epoch), Peers: []peerWire{},
	}
	for _, p := range a.Peers {
		w.Peers = append(w.Peers, peerWire{
			p.ID.String(), p.Number, p.Name, p.Zone, p.Rack, p.Peer, p.Gossip, p.S3, p.TLS, p.State, p.Key, p.Command,
		})
	}
	data, err := json.Marshal(w)
	if err == nil && len(data) > maxAnswer {
		err = fmt.Errorf("an answer of %d bytes, at most %d", len(data), maxAnswer)
	}
	return data, err
}

// decodeAnswer reads what encodeAnswer wrote. The error quotes no secret.
func decodeAnswer(data []byte) (a *Answer, certificate []byte, err error) {
	var w answerWire
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, nil, fmt.Errorf("%w: an answer that cannot be read", errWire)
	}
	a = &Answer{Number: w.Number, Returned: w.Returned, Epoch: cluster.Epoch(w.Epoch)}
	id, err := cluster.ParseID(w.Peer)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errWire, err)
	}
	a.Peer = cluster.PeerID(id)
	if a.List, err = trust.ParseList(w.List); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errWire, err)
	}
	if a.Gossip, err = parseGossip(w.Gossip); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errWire, err)
	}
	if len(w.IntegrityKey) != len(a.IntegrityKey) {
		return nil, nil, fmt.Errorf("%w: an integrity key of %d bytes", errWire, len(w.IntegrityKey))
	}
	copy(a.IntegrityKey[:], w.IntegrityKey)
	for _, p := range w.Peers {
		id, err := cluster.ParseID(p.ID)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errWire, err)
		}
		a.Peers = append(a.Peers, topology.Peer{
			ID: cluster.PeerID(id), Number: p.Number, Name: p.Name, Zone: p.Zone, Rack: p.Rack, Peer: p.Address, Gossip: p.Gossip,
			S3: p.S3, TLS: p.TLS, State: p.State, Key: p.Key, Command: p.Command,
		})
	}
	return a, w.Certificate, nil
}

func encodeRefusal(r *refusal) ([]byte, error) { return json.Marshal(refusalWire{r.code, r.message}) }

func decodeRefusal(data []byte) (*refusal, error) {
	var w refusalWire
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	return receivedRefusal(printable(w.Code), printable(w.Message)), nil
}
