package remote

import (
	"net/http"
	"time"
)

// TuneTransport sets up a transport for shards: buffers of a cell, no compression, enough idle connections that bursts
// do not dial anew, and pings that end an HTTP/2 connection whose peer is gone, which would otherwise take calls for as
// long as TCP repeats itself.
func TuneTransport(t *http.Transport) {
	const patience = defaultSilence
	t.DisableCompression = true
	t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 64
	t.IdleConnTimeout = 90 * time.Second
	t.TLSHandshakeTimeout = patience
	if t.HTTP2 == nil {
		t.HTTP2 = &http.HTTP2Config{}
	}
	t.HTTP2.SendPingTimeout, t.HTTP2.PingTimeout, t.HTTP2.WriteByteTimeout = patience, patience, patience
}

const (
	// streams and streamBuffer bound what of the calls on one HTTP/2 connection lies unread at a server.
	streams      = 64
	streamBuffer = 128 << 10
)

// TuneServer sets up the HTTP/2 of a server that serves a Handler. Calls that wait for memory leave what they sent
// unread. On HTTP/2 all calls of a connection share one window: with the usual one, 1 MiB, a dozen of those that wait fill it,
// and the calls that they wait for cannot go on. The window set here is larger than what all that wait can fill. Frames
// are as short as records of TLS: of a longer one a server sees nothing until all of it is there, which over a slow link
// looks like silence.
func TuneServer(s *http.Server) {
	if s.HTTP2 == nil {
		s.HTTP2 = &http.HTTP2Config{}
	}
	s.HTTP2.MaxConcurrentStreams = streams
	s.HTTP2.MaxReadFrameSize = 16 << 10
	s.HTTP2.MaxReceiveBufferPerStream = streamBuffer
	s.HTTP2.MaxReceiveBufferPerConnection = streams*streamBuffer + maxShard
}
