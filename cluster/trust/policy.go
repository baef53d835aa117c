package trust

import (
	"crypto/tls"
	"fmt"
)

// Policy is the table of methods and the roles that may call them. What it does not list nobody may call, so the zero
// Policy denies everything. It must not change once it is in use.
type Policy map[string]Roles

// Allow returns nil when the caller has one of the method's roles, else an error that is ErrWrongRole.
func (p Policy) Allow(method string, caller Identity) error {
	allowed, listed := p[method]
	if !listed {
		return fmt.Errorf("%v calls %s, which nobody may: %w", caller, method, ErrWrongRole)
	}
	if !caller.Roles.Any(allowed) {
		return fmt.Errorf("%v calls %s, which takes %v: %w", caller, method, allowed, ErrWrongRole)
	}
	return nil
}

// Authorize is the one question a server asks before each call: who calls on this connection, and may it call this
// method now? The error is a Reason.
func (s *Store) Authorize(state tls.ConnectionState, policy Policy, method string) (Identity, error) {
	caller, err := s.Caller(state)
	if err != nil {
		return Identity{}, err
	}
	if err := policy.Allow(method, caller); err != nil {
		return Identity{}, s.refusals.count(err)
	}
	return caller, nil
}
