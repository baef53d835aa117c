package metadata

// Surveyed is one finding of Survey: exactly one of the pointers is set. Bucket and Key say where it stands.
type Surveyed struct {
	Bucket  BucketID
	Key     string
	Version *Version
	Upload  *Upload
	// Part is a part row, of the upload under way or the version that PartOf names.
	Part   *Part
	PartOf UploadID
	Freed  *Freed
	Stage  *Stage
	Row    *Row
}
