package replicas

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/raft"
)

// The lengths of what goes between peers, in bytes: see FORMAT.md.
const (
	requestSize = 16
	hostedSize  = 24
	// maxHosted bounds the replicas that a peer may say it holds: far more than a peer can serve.
	maxHosted = 1 << 17
)

// errWire says that bytes from another peer are not in the format.
var errWire = errors.New("not a message about replicas")

// Hosted is a replica that a peer holds.
type Hosted struct {
	Group   raft.GroupID
	Replica uint64
	// Leads says that it leads its group, as far as it knows.
	Leads bool
}

func encodeRequest(group raft.GroupID, replica uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(group)), replica)
}

func decodeRequest(b []byte) (group raft.GroupID, replica uint64, err error) {
	if len(b) != requestSize {
		return 0, 0, fmt.Errorf("%d bytes: %w", len(b), errWire)
	}
	return raft.GroupID(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint64(b[8:]), nil
}

func encodeHosted(list []Hosted) []byte {
	b := make([]byte, 0, hostedSize*len(list))
	for _, h := range list {
		b = append(b, encodeRequest(h.Group, h.Replica)...)
		leads := uint64(0)
		if h.Leads {
			leads = 1
		}
		b = binary.LittleEndian.AppendUint64(b, leads)
	}
	return b
}

func decodeHosted(b []byte) ([]Hosted, error) {
	if len(b)%hostedSize != 0 || len(b) > hostedSize*maxHosted {
		return nil, fmt.Errorf("%d bytes: %w", len(b), errWire)
	}
	list := make([]Hosted, 0, len(b)/hostedSize)
	for ; len(b) > 0; b = b[hostedSize:] {
		group, replica, err := decodeRequest(b[:requestSize])
		leads := binary.LittleEndian.Uint64(b[requestSize:])
		if err != nil || leads > 1 {
			return nil, fmt.Errorf("flags %x: %w", leads, errWire)
		}
		list = append(list, Hosted{Group: group, Replica: replica, Leads: leads == 1})
	}
	return list, nil
}
