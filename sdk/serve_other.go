//go:build !unix

package sdk

// detachStdout does nothing where descriptors cannot be redirected.
func detachStdout() error { return nil }
