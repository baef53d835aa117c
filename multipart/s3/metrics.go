package s3

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are all series of this package.
type metrics struct {
	requests  *prometheus.CounterVec   // holdfast_s3_requests_total
	seconds   *prometheus.HistogramVec // holdfast_s3_request_seconds
	firstByte *prometheus.HistogramVec // holdfast_s3_first_byte_seconds
	sent      *prometheus.CounterVec   // holdfast_s3_sent_bytes_total
	active    prometheus.Gauge         // holdfast_s3_requests_active
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	// 1 ms to 16 s: the promise for a first byte, 20 ms, lies in the middle.
	buckets := prometheus.ExponentialBuckets(0.001, 2, 15)
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_s3_requests_total", Help: "S3 requests by operation and status.",
		}, []string{"op", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_s3_request_seconds", Help: "Time from the header of a request to the end of its answer.", Buckets: buckets,
		}, []string{"op"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "holdfast_s3_first_byte_seconds", Help: "Time from the header of a request to the header of its answer.", Buckets: buckets,
		}, []string{"op"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_s3_sent_bytes_total", Help: "Bytes of answers' bodies.",
		}, []string{"op"}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "holdfast_s3_requests_active", Help: "Requests under way.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.firstByte, m.sent, m.active} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the series of the S3 face: %w", err)
		}
	}
	return m, nil
}

// begin counts a request in; the result counts it out and tells how long it took.
func (m *metrics) begin() func() time.Duration {
	started := time.Now()
	m.active.Inc()
	return func() time.Duration {
		m.active.Dec()
		return time.Since(started)
	}
}

func (m *metrics) observe(op string, status int, took time.Duration, w *response) {
	m.requests.WithLabelValues(op, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(op).Observe(took.Seconds())
	m.sent.WithLabelValues(op).Add(float64(w.bytes))
	if !w.first.IsZero() {
		m.firstByte.WithLabelValues(op).Observe(w.first.Sub(w.started).Seconds())
	}
}
