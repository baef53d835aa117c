package peer

import (
	"github.com/prometheus/client_golang/prometheus"
)

// The series of the chunk store and the drives. Those of requests are in package s3.
var (
	descRead     = counterDesc("shard_bytes_read_total", "Payload bytes read from drives.")
	descGiven    = counterDesc("chunk_bytes_read_total", "Data bytes given to readers.")
	descWritten  = counterDesc("chunk_bytes_written_total", "Data bytes acknowledged.")
	descChunks   = counterDesc("chunks_written_total", "Chunks acknowledged.")
	descRebuilt  = counterDesc("rebuilt_reads_total", "Spans rebuilt from other shards.")
	descAround   = counterDesc("slow_reads_total", "Reads that went around a slow drive.")
	descRetried  = counterDesc("chunks_retried_total", "Chunks sent again to another volume.")
	descShort    = counterDesc("chunks_short_total", "Chunks acknowledged with shards missing.")
	descRefused  = counterDesc("slow_downs_total", "Requests refused for lack of memory or healthy drives.")
	descUp       = prometheus.NewDesc("holdfast_drive_up", "1 when the drive works.", []string{"drive"}, nil)
	descFree     = prometheus.NewDesc("holdfast_drive_free_bytes", "Free space of the drive's file system.", []string{"drive"}, nil)
	descHeld     = prometheus.NewDesc("holdfast_drive_shards", "Live shards that the drive holds.", []string{"drive"}, nil)
	descDamaged  = prometheus.NewDesc("holdfast_drive_damaged_records", "Records that failed a digest since the drive was opened.", []string{"drive"}, nil)
	descRestored = counterDesc("shards_restored_total", "Shards copied or rebuilt on another drive, by repair and by moves.")
	descCopied   = counterDesc("shard_bytes_restored_total", "Payload bytes of those shards.")
	descCalls    = prometheus.NewDesc("holdfast_drive_calls_refused_total", "Calls of other peers for drives of this one that were refused, by reason.", []string{"reason"}, nil)
	descGossip   = prometheus.NewDesc("holdfast_gossip_dropped_total", "Gossip that was dropped, by reason.", []string{"reason"}, nil)
	descShortage = prometheus.NewDesc("holdfast_under_protected_chunks", "Chunks with shards missing or away from home.", nil, nil)
)

func counterDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, nil, nil)
}

// storeCollector reads the counters of the parts when it is asked, so that they know nothing of Prometheus.
type storeCollector struct {
	core *core
}

func newStoreCollector(c *core) prometheus.Collector { return storeCollector{c} }

// Describe implements prometheus.Collector.
func (s storeCollector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, out) }

// Collect implements prometheus.Collector.
func (s storeCollector) Collect(out chan<- prometheus.Metric) {
	st := s.core.chunks.Stats()
	repaired := s.core.repair.Progress()
	for desc, value := range map[*prometheus.Desc]int64{
		descRead: st.ShardBytes, descGiven: st.BytesRead, descWritten: st.BytesWritten, descChunks: st.Chunks, descRebuilt: st.Rebuilt,
		descAround: st.Around, descRetried: st.Retried, descShort: st.Short, descRefused: st.Refused, descRestored: st.Restored, descCopied: st.RestoredSize,
	} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value))
	}
	out <- prometheus.MustNewConstMetric(descShortage, prometheus.GaugeValue, float64(repaired.UnderProtected))
	refusals := &s.core.entitled.refusals
	for reason, count := range map[string]uint64{
		"not_entitled": refusals.NotEntitled.Load(), "stale_epoch": refusals.Stale.Load(), "foreign": refusals.Foreign.Load(), "protocol": refusals.Protocol.Load(),
	} {
		out <- prometheus.MustNewConstMetric(descCalls, prometheus.CounterValue, float64(count), reason)
	}
	if gossip := s.core.links.gossip; gossip != nil {
		st := gossip.Stats()
		for reason, count := range map[string]uint64{
			"wrong_cluster": st.WrongLabel, "wrong_key": st.WrongKey, "malformed": st.Malformed, "replayed": st.Replayed, "busy": st.Busy,
			"stranger": st.Strangers, "forged": st.Forged, "unreadable": st.Unreadable,
		} {
			out <- prometheus.MustNewConstMetric(descGossip, prometheus.CounterValue, float64(count), reason)
		}
	}
	for _, row := range (source{s.core.peer, s.core}).driveRows(nil) {
		up := 0.0
		if row.State == string(slotUp) {
			up = 1
		}
		for desc, value := range map[*prometheus.Desc]float64{
			descUp: up, descFree: float64(row.Free), descHeld: float64(row.Shards), descDamaged: float64(row.Damaged),
		} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, row.Name)
		}
	}
}
