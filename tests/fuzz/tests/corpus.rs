//! Replays inputs that once broke a reader, and the valid ones from which mutations start.

use hiend_fuzz::Target;

#[test]
fn every_input_is_read_or_refused() {
    for target in Target::all() {
        let scratch = tempfile::tempdir().unwrap();
        let corpus = target.corpus().unwrap();
        assert!(!corpus.is_empty(), "{} has no inputs", target.name);
        for (path, bytes) in corpus {
            // The name of an input that breaks the reader is the last one printed.
            println!("{}", path.display());
            target.attack(scratch.path(), &bytes);
        }
    }
}
