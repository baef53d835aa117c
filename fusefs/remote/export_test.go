package remote

// Knows tells whether the service has a session for the client.
func (s *Service) Knows(c *Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[c.session] != nil
}
