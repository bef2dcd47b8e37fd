//! Cases of a cache that are the same scan under several names.

use std::collections::{HashMap, HashSet};

use hiend_cache::{Cache, Case};

/// Pairs of cases with the same image file.
pub(super) struct SameScans {
    /// Cases that are not in the data, each with one of the data.
    pub twice: Vec<[String; 2]>,
    /// Cases of the data, each with the first one of the same image.
    pub repeated: Vec<[String; 2]>,
}

/// Finds the cases with the same image. `listed` are the keys of the data.
pub(super) fn find(cache: &Cache, listed: &HashSet<String>) -> SameScans {
    let (own, others): (Vec<&Case>, Vec<&Case>) = cache.cases().iter().partition(|case| listed.contains(case.key()));
    let pair = |case: &Case, first: &str| [case.key().to_owned(), first.to_owned()];
    let mut first_of: HashMap<&str, &str> = HashMap::new();
    let mut repeated = Vec::new();
    for case in own {
        let first = *first_of.entry(image(case)).or_insert(case.key());
        if first != case.key() {
            repeated.push(pair(case, first));
        }
    }
    let twice = others.into_iter().filter_map(|case| Some(pair(case, first_of.get(image(case))?)));
    SameScans { twice: twice.collect(), repeated }
}

/// Hash of a case's image file.
fn image(case: &Case) -> &str {
    &case.record().source.image_blake3
}
