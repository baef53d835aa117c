package metadata

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Suite are the tests of what a name space promises, by name.
var Suite = map[string]func(*testing.T){
	"TestBucketsComeAndGo":                             TestBucketsComeAndGo,
	"TestVersionsAndMarkersKeepABucket":                TestVersionsAndMarkersKeepABucket,
	"TestOneOfManyRacersMakesTheBucket":                TestOneOfManyRacersMakesTheBucket,
	"TestBucketChangesAreFinishedAfterACrash":          TestBucketChangesAreFinishedAfterACrash,
	"TestRowsAreComparedAndSwapped":                    TestRowsAreComparedAndSwapped,
	"TestBlocksAreLeasedOnce":                          TestBlocksAreLeasedOnce,
	"TestSurveyFindsEverything":                        TestSurveyFindsEverything,
	"TestListReadsNoRowsBelowACommonPrefix":            TestListReadsNoRowsBelowACommonPrefix,
	"TestDeleteMarkersDoNotSlowListings":               TestDeleteMarkersDoNotSlowListings,
	"TestOverwriteAndDeleteFreeExactlyTheirChunks":     TestOverwriteAndDeleteFreeExactlyTheirChunks,
	"TestLargeBodiesGoWithTheirVersions":               TestLargeBodiesGoWithTheirVersions,
	"TestVersionedBucketsFreeOnlyWhatIsRemovedForGood": TestVersionedBucketsFreeOnlyWhatIsRemovedForGood,
	"TestSharedChunksWaitForSweep":                     TestSharedChunksWaitForSweep,
	"TestKeptChunksAreNotFreed":                        TestKeptChunksAreNotFreed,
	"TestKeptPartRowsGoWithoutTheirChunks":             TestKeptPartRowsGoWithoutTheirChunks,
	"TestPartsAreFreedInPages":                         TestPartsAreFreedInPages,
	"TestHeldVersionsAreNotFreed":                      TestHeldVersionsAreNotFreed,
	"TestPartRowsHaveOneOwner":                         TestPartRowsHaveOneOwner,
	"TestLookTellsWhatANameStandsFor":                  TestLookTellsWhatANameStandsFor,
	"TestCatalogKeepsS3Semantics":                      TestCatalogKeepsS3Semantics,
	"TestRenamePrefixMovesEverythingAtOnce":            TestRenamePrefixMovesEverythingAtOnce,
	"TestLargeRenamePrefixGoesOnAfterACrash":           TestLargeRenamePrefixGoesOnAfterACrash,
	"TestWritesBelowARenamedPrefixWait":                TestWritesBelowARenamedPrefixWait,
	"TestRenameNeverReplacesWithNoReplace":             TestRenameNeverReplacesWithNoReplace,
	"TestRmdirSeesEveryKeyBelow":                       TestRmdirSeesEveryKeyBelow,
	"TestHoldFollowsAPrefixRename":                     TestHoldFollowsAPrefixRename,
	"TestANamedSessionOutlivesARestart":                TestANamedSessionOutlivesARestart,
	"TestARenewedSessionIsNotEnded":                    TestARenewedSessionIsNotEnded,
	"TestAStageNeedsABaseThatIsStillThere":             TestAStageNeedsABaseThatIsStillThere,
	"TestStageIsPublishedWhenItsSessionRunsOut":        TestStageIsPublishedWhenItsSessionRunsOut,
	"TestStageThatLostItsBaseIsKeptBeside":             TestStageThatLostItsBaseIsKeptBeside,
	"TestStageReplacedDiscardedAndUnstagedFreesItsOwn": TestStageReplacedDiscardedAndUnstagedFreesItsOwn,
	"TestAdoptedPartsBelongToTheVersion":               TestAdoptedPartsBelongToTheVersion,
	"TestRunEndsSessionsByItself":                      TestRunEndsSessionsByItself,
	"TestSessionsOfDeadCatalogsEnd":                    TestSessionsOfDeadCatalogsEnd,
	"TestCompleteChecksWhatTheClientLists":             TestCompleteChecksWhatTheClientLists,
	"TestReplacedAndAbortedPartsAreFreed":              TestReplacedAndAbortedPartsAreFreed,
	"TestConcurrentPartsAndComplete":                   TestConcurrentPartsAndComplete,
	"TestUploadsArePagedByKeyAndAge":                   TestUploadsArePagedByKeyAndAge,
	"TestCompleteOfTenThousandParts":                   TestCompleteOfTenThousandParts,
	"TestWritesHappenExactlyOnceWhateverTheLogDoes":    TestWritesHappenExactlyOnceWhateverTheLogDoes,
	"TestRetryOfAClientGetsTheSameAnswer":              TestRetryOfAClientGetsTheSameAnswer,
	"TestEveryKindOfWriteIsRepeatable":                 TestEveryKindOfWriteIsRepeatable,
	"TestOneOfManyRacersCreates":                       TestOneOfManyRacersCreates,
	"TestCancelledWriteKeepsItsTurn":                   TestCancelledWriteKeepsItsTurn,
	"TestGroupThatStoppedIsUnavailable":                TestGroupThatStoppedIsUnavailable,
	"TestCommandOverItsLimitIsRefused":                 TestCommandOverItsLimitIsRefused,
	"TestKeyLimits":                                    TestKeyLimits,
	"TestAWriteTakesTheOpOfItsContext":                 TestAWriteTakesTheOpOfItsContext,
	"TestBucketsAreMadeAndDeletedOnceByAnOp":           TestBucketsAreMadeAndDeletedOnceByAnOp,
	"TestAnInternalUploadBelongsToNoContext":           TestAnInternalUploadBelongsToNoContext,
	"TestCloseEndsWhatIsUnderWay":                      TestCloseEndsWhatIsUnderWay,
	"TestADeposedCatalogEndsItsCalls":                  TestADeposedCatalogEndsItsCalls,
	"TestVersionComesBackAsItWasPut":                   TestVersionComesBackAsItWasPut,
}

// Serve puts something between the tests and every Catalog that they open, until t ends.
func Serve(t *testing.T, with func(testing.TB, *Catalog) Names) {
	t.Helper()
	serving = with
	t.Cleanup(func() { serving = nil })
}

// BenchCatalog is a Catalog over groups that apply at once, and a bucket.
func BenchCatalog(b *testing.B) (*Catalog, BucketID) {
	b.Helper()
	w := newWorld(b)
	return w.catalog, w.bucket("bucket", Unversioned)
}

// VersionedCatalog is the same with a bucket that keeps every version.
func VersionedCatalog(t *testing.T) (*Catalog, BucketID) {
	t.Helper()
	w := newWorld(t)
	return w.catalog, w.bucket("bucket", VersioningEnabled)
}

// TestSuiteIsWhole wants every test that opens a world in Suite.
func TestSuiteIsWhole(t *testing.T) {
	paths, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") || !opensAWorld(f) {
				continue
			}
			found++
			if Suite[f.Name.Name] == nil {
				t.Errorf("%s is not in Suite", f.Name.Name)
			}
		}
	}
	if found != len(Suite) {
		t.Errorf("%d tests open a world, %d are in Suite", found, len(Suite))
	}
}

func opensAWorld(f *ast.FuncDecl) bool {
	opens := false
	ast.Inspect(f, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		opens = opens || ok && id.Name == "newWorld"
		return !opens
	})
	return opens
}
