package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// mirrorSet says which drives hold the log. A set replaces every set that is older by (ballot, epoch).
//
// Why a set can be trusted: it counts only when every drive of its electorate holds it durably, and these are at least
// spare(previous)+1 of the electorate before. A peer starts only with at most spare missing drives of the electorate,
// so among the drives that it sees stands one with the newest set that ever counted: spare+1 holders and
// len-spare seen drives are more than len together. The ballot keeps a set that was begun and never counted from
// outliving one that counted later: before its first change a process has a promise of a higher ballot from spare+1
// drives, which the next process sees (the first phase of Paxos; drive locks keep processes apart).
type mirrorSet struct {
	ballot uint64
	epoch  uint64
	// members hold the log and the checkpoints: everything acknowledged is on each of them.
	members []cluster.DriveID
	// electorate is every drive that could be reached when the set was made; previous that of the set before.
	electorate []cluster.DriveID
	previous   []cluster.DriveID
}

// maxSpare is how many drives the cluster loses without losing anything, as chunks with 4 parity shards do.
const maxSpare = 4

// spare is how many drives of an electorate may be missing at a start: a minority, and at most maxSpare.
func spare(electorate int) int { return max(0, min(maxSpare, (electorate-1)/2)) }

// newer tells whether s replaces o.
func (s mirrorSet) newer(o mirrorSet) bool {
	return s.ballot > o.ballot || s.ballot == o.ballot && s.epoch > o.epoch
}

func (s mirrorSet) equal(o mirrorSet) bool { return s.ballot == o.ballot && s.epoch == o.epoch }

// ballotPaper is what every drive keeps about sets, in names/mirrors.
type ballotPaper struct {
	promised uint64
	set      mirrorSet // zero on a drive that holds none yet
}

const (
	paperMagic = "HFMIRRS1"
	// maxPaper bounds names/mirrors: two copies of three lists of drives.
	maxPaper = 1 << 20
	// maxListed bounds a list of drives: a peer has a few dozen.
	maxListed = 4096
)

var errPaper = errors.New("record of the mirror set is damaged")

// encode returns two sealed copies, each padded to whole sectors: one flipped bit costs nothing.
func (p ballotPaper) encode(id cluster.ClusterID) []byte {
	buf := []byte(paperMagic)
	buf = append(buf, id[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, p.promised)
	buf = p.set.append(buf)
	sum := sha256.Sum256(buf)
	buf = append(buf, sum[:]...)
	buf = append(buf, make([]byte, roundUp(int64(len(buf)), vfs.Align)-int64(len(buf)))...)
	return append(buf, buf...)
}

// append appends the set's encoding.
func (s mirrorSet) append(buf []byte) []byte {
	buf = binary.LittleEndian.AppendUint64(buf, s.ballot)
	buf = binary.LittleEndian.AppendUint64(buf, s.epoch)
	for _, list := range [][]cluster.DriveID{s.members, s.electorate, s.previous} {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(list)))
		for _, d := range list {
			buf = append(buf, d[:]...)
		}
	}
	return buf
}

// decodePaper reads either copy.
func decodePaper(data []byte, id cluster.ClusterID) (ballotPaper, error) {
	p, err := decodePaperCopy(data, id)
	if err != nil {
		p, err = decodePaperCopy(data[len(data)/2:], id)
	}
	return p, err
}

func decodePaperCopy(data []byte, id cluster.ClusterID) (ballotPaper, error) {
	const fixed = 8 + 16 + 8
	if len(data) < fixed || string(data[:8]) != paperMagic || cluster.ClusterID(data[8:24]) != id {
		return ballotPaper{}, errPaper
	}
	set, rest, err := decodeSet(data[fixed:])
	if err != nil {
		return ballotPaper{}, err
	}
	sealed := len(data) - len(rest)
	if len(rest) < sha256.Size || sha256.Sum256(data[:sealed]) != [sha256.Size]byte(rest[:sha256.Size]) {
		return ballotPaper{}, errPaper
	}
	return ballotPaper{promised: binary.LittleEndian.Uint64(data[24:]), set: set}, nil
}

// decodeSet reads what append wrote and returns the bytes after it.
func decodeSet(data []byte) (mirrorSet, []byte, error) {
	if len(data) < 16 {
		return mirrorSet{}, nil, errPaper
	}
	s := mirrorSet{ballot: binary.LittleEndian.Uint64(data), epoch: binary.LittleEndian.Uint64(data[8:])}
	data = data[16:]
	for _, list := range []*[]cluster.DriveID{&s.members, &s.electorate, &s.previous} {
		if len(data) < 4 {
			return mirrorSet{}, nil, errPaper
		}
		count := int(binary.LittleEndian.Uint32(data))
		if data = data[4:]; count > maxListed || len(data) < count*len(cluster.DriveID{}) {
			return mirrorSet{}, nil, errPaper
		}
		for range count {
			*list = append(*list, cluster.DriveID(data[:16]))
			data = data[16:]
		}
	}
	return s, data, nil
}

// judge picks the newest set of the papers found on the drives that are here, and proves that no newer one can have
// counted. The error wraps ErrNotBootstrapped or ErrLogLost.
func judge(papers map[cluster.DriveID]ballotPaper) (mirrorSet, error) {
	var newest mirrorSet
	for _, p := range papers {
		if p.set.newer(newest) {
			newest = p.set
		}
	}
	if newest.epoch == 0 {
		return newest, ErrNotBootstrapped
	}
	if err := enough(papers, newest.electorate); err != nil {
		return newest, err
	}
	// A set that is not seen on a quorum of the electorate before may never have counted, and then another one may
	// have: the drives of that electorate must be here too.
	holders := 0
	for _, d := range newest.previous {
		if p, here := papers[d]; here && p.set.equal(newest) {
			holders++
		}
	}
	if holders <= spare(len(newest.previous)) {
		if err := enough(papers, newest.previous); err != nil {
			return newest, err
		}
	}
	return newest, nil
}

// enough tells whether so many drives of an electorate are here that a quorum of it cannot be hidden.
func enough(papers map[cluster.DriveID]ballotPaper, electorate []cluster.DriveID) error {
	missing := 0
	for _, d := range electorate {
		if _, here := papers[d]; !here {
			missing++
		}
	}
	if missing > spare(len(electorate)) {
		return fmt.Errorf("%w: %d of %d drives are missing, at most %d may be",
			ErrLogLost, missing, len(electorate), spare(len(electorate)))
	}
	return nil
}

// without returns the drives of a list that are not in others.
func without(list, others []cluster.DriveID) []cluster.DriveID {
	return slices.DeleteFunc(slices.Clone(list), func(d cluster.DriveID) bool { return slices.Contains(others, d) })
}

// common counts the drives in both lists.
func common(a, b []cluster.DriveID) int { return len(a) - len(without(a, b)) }
