package s3

// RouteRow is a route as tests outside of the package see it.
type RouteRow struct {
	Op, Method, Level string
	Subs              []string
	Copies            bool
}

// RouteTable lists all routes.
func RouteTable() []RouteRow {
	var rows []RouteRow
	for _, r := range routes() {
		level := map[level]string{serviceLevel: "service", bucketLevel: "bucket", objectLevel: "object"}[r.level]
		rows = append(rows, RouteRow{r.op, r.method, level, r.subs, r.copies})
	}
	return rows
}
