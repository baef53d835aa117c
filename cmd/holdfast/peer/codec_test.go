package peer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/metadata"
)

func exampleVolume() chunkstore.Volume {
	v := chunkstore.Volume{ID: 0x0102030405060708, Group: 7, Epoch: 9, State: chunkstore.VolumeSealed, Owner: cluster.PeerID{0xaa, 15: 0xbb}}
	for i := range v.Home {
		v.Home[i] = cluster.DriveID{byte(i + 1)}
		v.Slots[i] = cluster.DriveID{byte(i + 101)}
	}
	return v
}

func TestVolumeRowsComeBackWhole(t *testing.T) {
	v := exampleVolume()
	row := metadata.Row{Key: volumeKey(v.ID), Value: encodeVolume(v)}
	got, err := decodeVolume(row)
	if err != nil || got != v {
		t.Fatalf("%+v, %v", got, err)
	}
	// The first bytes are a promise on disk: format, state, group, epoch, owner.
	const golden = "0202070000000900000000000000" + "aa0000000000000000000000000000bb" + "01000000000000000000000000000000" + "02"
	if !strings.HasPrefix(hex.EncodeToString(row.Value), golden) || len(row.Value) != 414 {
		t.Errorf("a volume row of %d bytes is written %x…", len(row.Value), row.Value[:47])
	}
	old := volumeRow1(v)
	const golden1 = "0102070000000900000000000000" + "01000000000000000000000000000000" + "02"
	if !strings.HasPrefix(hex.EncodeToString(old), golden1) || len(old) != 398 {
		t.Errorf("a row of format 1 has %d bytes, %x…", len(old), old[:31])
	}
	if got, err := decodeVolume(metadata.Row{Key: row.Key, Value: old}); err != nil || got.Owner != (cluster.PeerID{}) {
		t.Errorf("format 1: %+v, %v", got, err)
	} else if got.Owner = v.Owner; got != v {
		t.Errorf("format 1 is read as %+v", got)
	}
	for name, bad := range map[string]metadata.Row{
		"short":   {Key: row.Key, Value: row.Value[:len(row.Value)-1]},
		"empty":   {Key: row.Key},
		"format":  {Key: row.Key, Value: append([]byte{3}, row.Value[1:]...)},
		"format0": {Key: row.Key, Value: append([]byte{0}, old[1:]...)},
		"1 as 2":  {Key: row.Key, Value: append([]byte{2}, old[1:]...)},
		"2 as 1":  {Key: row.Key, Value: append([]byte{1}, row.Value[1:]...)},
		"state":   {Key: row.Key, Value: append([]byte{2, 3}, row.Value[2:]...)},
		"key":     {Key: row.Key[1:], Value: row.Value},
		"longkey": {Key: append(bytes.Clone(row.Key), 0), Value: row.Value},
	} {
		if _, err := decodeVolume(bad); !errors.Is(err, errVolumeRow) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// volumeRow1 is a row as format 1 had it: without the owner.
func volumeRow1(v chunkstore.Volume) []byte {
	b := encodeVolume(v)
	return slices.Concat([]byte{1}, b[1:14], b[30:])
}

func FuzzDecodeVolume(f *testing.F) {
	v := exampleVolume()
	f.Add(volumeKey(v.ID), encodeVolume(v))
	f.Add(volumeKey(v.ID), volumeRow1(v))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		got, err := decodeVolume(metadata.Row{Key: key, Value: value})
		if err != nil {
			return
		}
		written := encodeVolume(got)
		if value[0] == 1 && got.Owner == (cluster.PeerID{}) {
			written = volumeRow1(got)
		}
		if !bytes.Equal(written, value) || !bytes.Equal(volumeKey(got.ID), key) {
			t.Errorf("%x decodes to %+v, which is written otherwise", value, got)
		}
	})
}

func TestExpandDrives(t *testing.T) {
	got, err := ExpandDrives([]string{"/mnt/d{8...10}", "/a,/b{01...02}/x"})
	if err != nil || strings.Join(got, " ") != "/mnt/d8 /mnt/d9 /mnt/d10 /a /b01/x /b02/x" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "/d{2...1}", "/d{1..3}", "/d{1...99999}", "/a,/a", "/d{a...b}", "/{1...64}/{1...64}"} {
		if got, err := ExpandDrives([]string{bad}); !errors.Is(err, ErrConfig) {
			t.Errorf("%q gives %d paths, %v", bad, len(got), err)
		}
	}
}

func TestSecretsAreNeverFormatted(t *testing.T) {
	c := NewCredentials()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", c, "pointer", &c, "secret", c.Secret)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", c, "pointer", &c, "secret", c.Secret)
	text := log.String() + fmt.Sprintf("%v %+v %#v %s %q %x %d", c, c, c, c.Secret, c.Secret, c.Secret, c.Secret) + fmt.Sprint(&c, c.Secret)
	if strings.Contains(text, string(c.Secret)) || strings.Contains(text, hex.EncodeToString([]byte(c.Secret))) {
		t.Errorf("the secret is in %s", text)
	}
}

func TestCredentialsFile(t *testing.T) {
	m := vfs.NewMemory(1)
	if err := vfs.MkdirAll(m, "/d", 0o700); err != nil {
		t.Fatal(err)
	}
	c := NewCredentials()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := writeCredentials(m, "/d", c); err != nil {
		t.Fatal(err)
	}
	after := m.Crash()
	got, err := ReadCredentials(after, "/d")
	if err != nil || *got != c {
		t.Fatalf("after power loss: %v", err)
	}
	info, err := after.Stat(CredentialsPath("/d"))
	if err != nil || info.Mode.Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode, err)
	}
	for _, bad := range []Credentials{{"ab", "longenough"}, {"abc", "short"}, {"a/b", "longenough"}, {"a b", "longenough"}, {"abc", "has a space"}, {"äbc", "longenough"}} {
		if err := bad.Validate(); !errors.Is(err, ErrBadCredentials) {
			t.Errorf("%q is taken: %v", bad.AccessKey, err)
		}
	}
}

func TestClusterOfNeedsAClearMajority(t *testing.T) {
	states := func(counts ...int) map[string]slotState {
		all := make(map[string]slotState)
		for c, n := range counts {
			for i := range n {
				s := slotState{kind: slotUp}
				s.identity.Cluster = cluster.ClusterID{byte(c + 1)}
				all[fmt.Sprintf("/%d/%d", c, i)] = s
			}
		}
		return all
	}
	for _, test := range []struct {
		counts []int
		clear  bool
	}{{[]int{12}, true}, {[]int{11, 1}, true}, {[]int{9, 3}, true}, {[]int{8, 4}, false}, {[]int{6, 6}, false}, {[]int{1}, true}, {nil, false}} {
		id, err := clusterOf(states(test.counts...))
		if (err == nil) != test.clear || test.clear && id != (cluster.ClusterID{1}) {
			t.Errorf("%v: %v, %v", test.counts, id, err)
		}
	}
}
