package trust

// hidden keeps a secret where nothing that prints by reflection can follow: fmt does not ask unexported fields for a
// Format of their own, and follows pointers, but it cannot look into a function.
type hidden[T any] func() T

func hide[T any](secret T) hidden[T] { return func() T { return secret } }
