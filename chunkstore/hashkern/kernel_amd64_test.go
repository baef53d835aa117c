package hashkern

import "testing"

func TestWithoutTheKernelTheStandardLibraryDoesTheSame(t *testing.T) {
	if !haveKernel {
		t.Log("this processor has no SHA extensions: every other test ran without the kernel already")
	}
	had := haveKernel
	t.Cleanup(func() { haveKernel = had })
	haveKernel = false
	t.Run("sum", TestSum256EqualsTheStandardLibraryForEveryLength)
	t.Run("two", TestTwoStreamsAtOnceEqualTheStandardLibrary)
	t.Run("md5", TestMD5EqualsTheStandardLibraryForEverySplit)
}
