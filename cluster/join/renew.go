package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// RenewPath is where a peer asks another one for its next certificate.
const RenewPath = "/join/1/renew"

// Limits of renewal, in bytes.
const (
	maxRenewal     = 4 << 10  // a request
	maxCertificate = 16 << 10 // an answer
)

// How a Renewer waits.
const (
	// renewCheck is how often it looks at the clock, which may be set.
	renewCheck = time.Hour
	// renewPause and renewLongPause are those after a renewal that did not succeed. There are two weeks for it.
	renewPause     = time.Minute
	renewLongPause = time.Hour
	// renewTimeout bounds one attempt.
	renewTimeout = time.Minute
	// aloneBefore is how long before the end of its certificate a peer whose others are all away signs for itself.
	aloneBefore = 7 * 24 * time.Hour
)

// Issuer renews certificates: every peer has one, behind a Route.
type Issuer struct {
	Root *root.Client
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Renew signs the next certificate of a caller that is in the cluster, for its own id and roles and no others. The
// errors are ErrRemoved, topology.ErrUnknownPeer, trust.ErrBadRequest and ErrNoSecrets.
func (i *Issuer) Renew(ctx context.Context, caller trust.Identity, request []byte) ([]byte, error) {
	if _, err := trust.RequestedKey(request); err != nil {
		return nil, err
	}
	secrets, err := Load(ctx, i.Root)
	if err != nil {
		return nil, fmt.Errorf("renew the certificate of %v: %w", caller, err)
	}
	if revoked(secrets.List, caller.Peer) {
		return nil, fmt.Errorf("renew the certificate of %v: %w", caller, ErrRemoved)
	}
	if caller.Roles.Any(trust.RolePeer) {
		m, err := topology.Load(ctx, i.Root)
		if err == nil {
			_, err = member(&m, caller.Peer)
		}
		if err != nil {
			return nil, fmt.Errorf("renew the certificate of %v: %w", caller, err)
		}
	}
	now := time.Now
	if i.Now != nil {
		now = i.Now
	}
	return secrets.Authority.Issue(request, caller, now())
}

// Route is where other peers call Renew.
func (i *Issuer) Route() transport.Route {
	return transport.Route{Pattern: "POST " + RenewPath, Roles: trust.RolePeer, MaxBody: maxRenewal, Handler: transport.HandlerFunc(i.serve)}
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) error {
	request, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	caller, _ := transport.Caller(r.Context()) // zero outside of a server, and then nobody
	certificate, err := i.Renew(r.Context(), caller, request)
	if err != nil {
		return err
	}
	_, err = w.Write(certificate)
	return err
}

// Renewer is the worker that keeps a peer's certificate from running out, with a new key each time.
//
// What it has got it stores, then puts the key into the peer's row, then uses it: a peer that stops in between finds
// the newer credentials in its file, and Run puts their key into the row. So whatever the peer signs, its row has the
// key for; for a second or so other peers may know one of the two only (membership.Renew tells them anew).
type Renewer struct {
	Trust *trust.Store
	Root  *root.Client
	Peers *transport.Peers
	// Save stores the credentials where the next start finds them.
	Save func(*trust.Credentials) error
	// Renewed is told of credentials that are in use. It may be nil.
	Renewed func(*trust.Credentials)
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Log hears of attempts that failed. Nil means slog.Default.
	Log *slog.Logger

	// saved are credentials that are stored and not used yet.
	saved *trust.Credentials
}

// Name says what the worker is called in status.
func (r *Renewer) Name() string { return "certificate" }

// Run renews whenever it is time to, until ctx ends. An attempt that fails is made again after a minute, later an hour.
func (r *Renewer) Run(ctx context.Context) error {
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Log == nil {
		r.Log = slog.Default()
	}
	settled, pause := false, renewPause
	for {
		err := r.attempt(ctx, &settled)
		wait := renewCheck
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.Log.Warn("the certificate was not renewed", "err", err, "expires", r.Trust.Credentials().Certificate().NotAfter)
			wait, pause = pause, min(2*pause, renewLongPause)
		default:
			pause = renewPause
			wait = max(min(wait, r.Trust.Credentials().RenewAt().Sub(r.Now())), time.Second)
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// attempt does what there is to do now. settled says that the row has the key in use.
func (r *Renewer) attempt(ctx context.Context, settled *bool) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if !*settled {
		if err := putKey(ctx, r.Root, r.Trust.Credentials()); err != nil {
			return err
		}
		*settled = true
	}
	if r.Now().Before(r.Trust.Credentials().RenewAt()) {
		return nil
	}
	return r.renew(ctx)
}

func (r *Renewer) renew(ctx context.Context) error {
	if r.saved == nil {
		credentials, err := r.next(ctx)
		if err != nil {
			return err
		}
		if err := r.Save(credentials); err != nil {
			return fmt.Errorf("store the new certificate: %w", err)
		}
		r.saved = credentials
	}
	if err := putKey(ctx, r.Root, r.saved); err != nil {
		return err
	}
	if err := r.Trust.SetCredentials(r.saved); err != nil {
		return err
	}
	credentials := r.saved
	r.saved = nil
	if r.Renewed != nil {
		r.Renewed(credentials)
	}
	return nil
}

// next gets the next credentials, which the list in use must know the authority of, or they are of no use.
func (r *Renewer) next(ctx context.Context) (*trust.Credentials, error) {
	request, err := trust.NewRequest()
	if err != nil {
		return nil, err
	}
	certificate, err := r.certificate(ctx, request.Bytes())
	if err != nil {
		return nil, err
	}
	next, err := request.Complete(certificate)
	if err != nil {
		return nil, err
	}
	before := r.Trust.Credentials()
	if next.Identity() != before.Identity() || !next.RenewAt().After(r.Now()) {
		return nil, fmt.Errorf("a certificate of %v that is renewed at %v: %w", next.Identity(), next.RenewAt(), trust.ErrBadCertificate)
	}
	_, err = trust.NewStore(trust.Config{Credentials: next, List: r.Trust.List(), Now: r.Now})
	return next, err
}

// certificate asks the other peers, in any order: another one's clock, and its view of who is in the cluster, are worth
// more than one's own. A peer that has none signs for itself, and so does one whose others are away until its
// certificate runs out: without one, it could not let them in again. Both read the rows for it, so a majority of the root
// group is with them.
func (r *Renewer) certificate(ctx context.Context, request []byte) ([]byte, error) {
	m, err := topology.Load(ctx, r.Root)
	if err != nil {
		return nil, err
	}
	self := r.Trust.Credentials().Identity()
	members := m.Members()
	if len(members) == 1 && members[0].ID == self.Peer {
		issuer := Issuer{Root: r.Root, Now: r.Now}
		return issuer.Renew(ctx, self, request)
	}
	rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	var failed []error
	for _, p := range members {
		if p.ID == self.Peer {
			continue
		}
		certificate, err := r.ask(ctx, p.ID, request)
		if err == nil {
			return certificate, nil
		}
		failed = append(failed, err)
	}
	cause := inOneLine(failed)
	if left := r.Trust.Credentials().Certificate().NotAfter.Sub(r.Now()); left > aloneBefore || !allAway(failed) {
		return nil, fmt.Errorf("no other peer renews the certificate: %w", cause)
	}
	r.Log.Warn("no other peer is there to renew the certificate; this one signs for itself", "err", cause)
	issuer := Issuer{Root: r.Root, Now: r.Now}
	return issuer.Renew(ctx, self, request)
}

// allAway says that no peer was there to refuse. One that shows an expired certificate is as good as away.
func allAway(failed []error) bool {
	for _, err := range failed {
		if !errors.Is(err, transport.ErrUnreachable) && !errors.Is(err, transport.ErrUnknownPeer) {
			return false
		}
	}
	return true
}

func (r *Renewer) ask(ctx context.Context, id cluster.PeerID, request []byte) (certificate []byte, err error) {
	peer, err := r.Peers.Peer(id)
	if err != nil {
		return nil, err
	}
	call, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://peer"+RenewPath, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	response, err := peer.Do(call)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	certificate, err = io.ReadAll(io.LimitReader(response.Body, maxCertificate+1))
	if err == nil && len(certificate) > maxCertificate {
		err = fmt.Errorf("peer %v: a certificate of more than %d bytes", id, maxCertificate)
	}
	return certificate, err
}
