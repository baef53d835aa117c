package trust

import (
	"errors"
	"iter"
	"sync/atomic"
)

// Reason is why a connection or a call was refused: an error to match with errors.Is, and the label of a counter.
type Reason uint8

// The reasons.
const (
	ErrNoCertificate Reason = iota + 1
	// ErrUnknownAuthority is a certificate that none of the cluster's authorities signed.
	ErrUnknownAuthority
	ErrExpired
	ErrNotYetValid
	// ErrBadCertificate is one that names no identity of this cluster, or not in our form.
	ErrBadCertificate
	ErrRevoked
	// ErrWrongRole is a call that the caller's roles do not allow, or a server that is no peer.
	ErrWrongRole
	// ErrWrongPeer is a server that is a peer, but not the one that was meant.
	ErrWrongPeer
	// ErrOtherProtocol is what is not TLS 1.3 with a protocol of ours.
	ErrOtherProtocol

	reasonsEnd
)

var reasonTexts = [reasonsEnd]struct{ label, sentence string }{
	ErrNoCertificate:    {"no_certificate", "no certificate was shown"},
	ErrUnknownAuthority: {"unknown_authority", "the certificate is not signed by the cluster's authority"},
	ErrExpired:          {"expired", "the certificate has expired"},
	ErrNotYetValid:      {"not_yet_valid", "the certificate is not valid yet; compare the clocks of the machines"},
	ErrBadCertificate:   {"bad_certificate", "not a certificate of this cluster"},
	ErrRevoked:          {"revoked", "the peer was removed from the cluster"},
	ErrWrongRole:        {"wrong_role", "the role does not allow this"},
	ErrWrongPeer:        {"wrong_peer", "another peer answers at this address"},
	ErrOtherProtocol:    {"other_protocol", "not the protocol of peers over TLS 1.3"},
}

func (r Reason) Error() string {
	if r == 0 || r >= reasonsEnd {
		return "refused"
	}
	return reasonTexts[r].sentence
}

// Label is the reason's name in metrics.
func (r Reason) Label() string {
	if r == 0 || r >= reasonsEnd {
		return "other"
	}
	return reasonTexts[r].label
}

// Refusals counts what was refused, by reason, since the Store was made. It may be read while it counts.
type Refusals struct {
	counts [reasonsEnd]atomic.Uint64
}

// Of is the number of refusals for one reason.
func (r *Refusals) Of(reason Reason) uint64 {
	if reason >= reasonsEnd {
		return 0
	}
	return r.counts[reason].Load()
}

// All are the numbers of all reasons, those of zero too.
func (r *Refusals) All() iter.Seq2[Reason, uint64] {
	return func(yield func(Reason, uint64) bool) {
		for reason := Reason(1); reason < reasonsEnd; reason++ {
			if !yield(reason, r.Of(reason)) {
				return
			}
		}
	}
}

// count counts err, when it says why, and returns it.
func (r *Refusals) count(err error) error {
	var reason Reason
	if errors.As(err, &reason) && reason < reasonsEnd {
		r.counts[reason].Add(1)
	}
	return err
}
