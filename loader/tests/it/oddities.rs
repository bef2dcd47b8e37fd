//! Oddities of CT collections: each kind with the message of dry run and conversion, the exit code, and the content of the cache.
//!
//! `docs/oddities.md` is the same table for readers.

mod data;
mod dicom;
#[path = "../../src/volume/dicom/testing.rs"]
#[allow(dead_code, reason = "unit tests use the rest")]
mod dicom_file;
mod formats;
mod headers;
mod labels;
mod layouts;
mod lists;
mod names;
mod nifti;
mod values;

use std::path::Path;

use hiend_cache::{Cache, Case, VolumeReader};
use rayon::prelude::*;

use self::data::Data;
use self::nifti::MARKER;
use super::cli::{Ran, run};

/// Kinds by group, in the order of the document.
const GROUPS: [(&str, &[Kind]); 8] = [
    ("Headers", headers::KINDS),
    ("Values", values::KINDS),
    ("Label maps", labels::KINDS),
    ("Layouts", layouts::KINDS),
    ("Names and links", names::KINDS),
    ("Formats", formats::KINDS),
    ("DICOM", dicom::KINDS),
    ("Lists and descriptions", lists::KINDS),
];

/// Evidence of an oddity.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// Names of files and folders, and `dataset.json`: every dry run tells of it.
    Names,
    /// Headers: every dry run tells of it.
    Header,
    /// Voxels: the conversion tells of it, and a dry run where it converts the case as a sample.
    Voxels,
    /// Voxels of all cases: only the conversion tells of it.
    Cases,
}

/// A kind of oddity with the expected outcome.
struct Kind {
    /// Name in `docs/oddities.md`.
    name: &'static str,
    /// Writes an example into an empty folder.
    write: fn(&Data),
    seen: Seen,
    /// Parts of messages, each in exactly one line of dry run and conversion. Without any, nothing is reported.
    says: &'static [&'static str],
    /// Exit code of dry run and conversion.
    code: i32,
    /// Checks the cache.
    holds: fn(&Stored),
}

/// The cases of a converted example.
struct Stored(Cache);

impl Stored {
    fn case(&self, name: &str) -> &Case {
        let is_it = |case: &&Case| case.record().case_id == name;
        let found: Vec<&Case> = self.0.cases().iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{name}: {:?}", self.names());
        found[0]
    }

    /// Names of all cases, sorted, those with labels with a `+`.
    fn names(&self) -> Vec<String> {
        let name = |case: &Case| {
            let record = case.record();
            format!("{}{}", record.case_id, if record.label.is_some() { "+" } else { "" })
        };
        let mut names: Vec<String> = self.0.cases().iter().map(name).collect();
        names.sort();
        names
    }

    /// Asserts the names of all cases, with a `+` for labels.
    fn has(&self, expected: &[&str]) {
        assert_eq!(self.names(), expected);
    }

    /// HU and label of the voxel at a place in mm (RAS+), of a case whose axes are those of the world.
    fn at(&self, name: &str, place: [f64; 3]) -> (f64, Option<u8>) {
        let case = self.case(name);
        let (record, volume) = (case.record(), case.read_whole(&mut VolumeReader::new()).unwrap());
        let (affine, shape) = (&record.geometry.affine, record.shape);
        let nearest = |axis: usize| {
            let (first, side) = (affine[axis][3], affine[axis][axis]);
            let is_near = |index: &u16| (first + side * f64::from(*index) - place[axis]).abs() <= side / 2.0;
            (0..u16::try_from(shape[axis]).unwrap()).find(is_near).map(usize::from)
        };
        let index = [0, 1, 2].map(|axis| nearest(axis).unwrap_or_else(|| panic!("{place:?} lies outside of {name}")));
        let at = (index[0] * shape[1] + index[1]) * shape[2] + index[2];
        let hu = record.image.offset + record.image.scale * f64::from(volume.image[at]);
        (hu, volume.label.map(|label| label[at]))
    }

    /// Asserts that a case lies where its scan does: the marker is at its place, and not on any other side.
    fn is_placed(&self, name: &str) {
        let [x, y, z] = MARKER;
        for (place, is_marked) in
            [([x, y, z], true), ([-x, y, z], false), ([x, -y, z], false), ([x, y, -z], false), ([-x, -y, z], false)]
        {
            let (hu, _) = self.at(name, place);
            assert_eq!((hu - 200.0).abs() < 1.0, is_marked, "{name}: {hu} HU at {place:?}");
        }
    }

    /// Asserts that the odd case is there and lies where its scan does.
    fn is_right(&self) {
        self.has(&["odd", "whole"]);
        self.is_placed("odd");
    }

    /// Asserts that all but the odd case is there.
    fn is_left_out(&self) {
        self.has(&["whole"]);
    }

    /// Asserts the different label values of a case.
    fn has_classes(&self, name: &str, expected: &[u8]) {
        let mut classes = self.case(name).read_whole(&mut VolumeReader::new()).unwrap().label.unwrap();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes, expected, "{name}");
    }
}

impl Kind {
    /// Checks that every message is in one line, in standard output or else in standard error.
    fn check_messages(&self, ran: &Ran) {
        let all = || format!("{}: {}\n{}", self.name, ran.out, ran.err);
        for part in self.says {
            let count = |text: &str| text.lines().filter(|line| line.contains(part)).count();
            let lines = if count(&ran.out) > 0 { count(&ran.out) } else { count(&ran.err) };
            assert_eq!(lines, 1, "{part}\n{}", all());
        }
        if self.says.is_empty() {
            for part in ["kip:", "kipped:", "check these", "Not converted:", "warning:"] {
                assert!(!ran.out.contains(part) && !ran.err.contains(part), "{part}\n{}", all());
            }
        }
    }

    /// Runs both programs on an example.
    fn check(&self) {
        let dir = tempfile::tempdir().unwrap();
        let [data, cache] = ["data", "cache"].map(|name| dir.path().join(name));
        (self.write)(&Data(data.clone()));
        let [data, out] = [&data, &cache].map(|path| path.display().to_string());
        let exits = |ran: &Ran| assert_eq!(ran.code, self.code, "{}: {}\n{}", self.name, ran.out, ran.err);

        let is_silent = |ran: &Ran| {
            let is_told = self.says.iter().any(|part| ran.out.contains(part));
            assert!(!is_told, "{} is shown by more than {:?}\n{}", self.name, self.seen, ran.out);
        };
        // Only the larger of two cases is converted as a sample, which is not the odd one.
        let plan = run(&["plan", &data, "--spacing=6", "--probe=0"]);
        match self.seen {
            Seen::Names | Seen::Header => {
                self.check_messages(&plan);
                exits(&plan);
            }
            Seen::Voxels | Seen::Cases => is_silent(&plan),
        }
        let dry = run(&[&data, "--out", &out, "--spacing=6", "--dry-run"]);
        if self.seen == Seen::Cases {
            is_silent(&dry);
        } else {
            self.check_messages(&dry);
        }
        exits(&dry);
        assert!(!cache.exists(), "{}: a dry run wrote", self.name);
        let converted = run(&[&data, "--out", &out, "--spacing=6"]);
        self.check_messages(&converted);
        exits(&converted);
        (self.holds)(&Stored(Cache::open(&*cache).unwrap()));
    }
}

#[test]
fn oddities_give_the_right_result_or_one_line() {
    let kinds: Vec<&Kind> = GROUPS.iter().flat_map(|(_, kinds)| *kinds).collect();
    assert!(kinds.len() >= 40, "{} kinds", kinds.len());
    // Each failure is printed where it happens.
    let fails = |kind: &&&Kind| std::panic::catch_unwind(|| kind.check()).is_err();
    let failed: Vec<&str> = kinds.par_iter().filter(fails).map(|kind| kind.name).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn documented_oddities_are_those_tested() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oddities.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut documented = Vec::new();
    for section in text.split("\n## ").skip(1) {
        let heading = section.lines().next().unwrap();
        // Rows without the head of the table and the line below it.
        let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
        documented.extend(rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 5, "{row}");
            [heading, cells[0], cells[2], cells[3]].map(str::to_owned)
        }));
    }
    let shown_by = |seen: Seen| match seen {
        Seen::Names => "names",
        Seen::Header => "header",
        Seen::Voxels => "voxels",
        Seen::Cases => "all cases",
    };
    let row = |group: &str, kind: &Kind| {
        [group.to_owned(), kind.name.to_owned(), shown_by(kind.seen).to_owned(), kind.code.to_string()]
    };
    let tested: Vec<[String; 4]> =
        GROUPS.iter().flat_map(|(group, kinds)| kinds.iter().map(|kind| row(group, kind))).collect();
    assert_eq!(documented, tested);
}
