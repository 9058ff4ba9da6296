//! Replays the committed corpus, then a bounded number of changed inputs, through every check.
#![expect(clippy::disallowed_methods, reason = "the corpus is files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sw_fuzz::{Mutator, TARGETS};

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|e| e.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect()
}

fn corpus_of(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(fuzz_folder().join("corpus").join(target))
        .expect("every target has a corpus")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("readable")).collect()
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "names are unique");
    assert_eq!(names_in(&fuzz_folder().join("corpus")), targets);
    assert_eq!(names_in(&fuzz_folder().join("fuzz_targets")), targets);
    for target in &targets {
        assert!(!corpus_of(target).is_empty(), "{target}");
    }
}

#[test]
fn the_corpus_breaks_no_promise() {
    for (name, check) in TARGETS {
        for input in corpus_of(name) {
            check(&input);
        }
    }
}

#[test]
fn changed_inputs_break_no_promise() {
    for (name, check) in TARGETS {
        let corpus = corpus_of(name);
        let mut mutator = Mutator::new(&corpus, [9; 32]);
        for _ in 0..300 {
            check(mutator.next_input());
        }
    }
}
