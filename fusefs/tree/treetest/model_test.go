package treetest_test

import (
	"testing"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

func TestModelKeepsTheContract(t *testing.T) {
	treetest.Run(t, func(*testing.T) tree.Objects { return treetest.NewModel() })
}
