//! Headers as ITK and 3D Slicer write them, and invalid ones.

#![expect(clippy::float_cmp, reason = "values that f32 holds exactly")]

use std::path::Path;

use super::super::{Volume, read_info, read_labels, read_volume};
use super::*;

const HEADER: &str = "NRRD0004\n# Complete NRRD file format specification at:\ntype: short\ndimension: 3\n\
    space: left-posterior-superior\nsizes: 2 3 2\nspace directions: (0.5,0,0) (0,0.6,0) (0,0,3)\n\
    kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (-10,20,30)\nSegment0_Name:=liver: left\n";

fn voxels() -> Vec<u8> {
    (0..12i16).flat_map(|value| (value * 10 - 50).to_le_bytes()).collect()
}

/// Writes a file `name` with this header and data, and reads it as a volume.
fn read(name: &str, header: &str, data: &[u8]) -> Result<Volume, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, [header.as_bytes(), b"\n", data].concat()).unwrap();
    std::fs::write(dir.path().join("a.raw"), voxels()).unwrap();
    read_volume(&path).map_err(|err| err.reason.to_string())
}

fn values(volume: &Volume) -> Vec<f32> {
    let mut values = vec![0.0; volume.info.shape.iter().product()];
    volume.read_f32(0, &mut values);
    values
}

fn check(header: &str, data: &[u8]) {
    let volume = read("a.nrrd", header, data).unwrap();
    let expected: Vec<f32> = (0..12u8).map(|at| f32::from(at) * 10.0 - 50.0).collect();
    assert_eq!(values(&volume), expected, "{header}");
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_header_in_lps_becomes_ras() {
    let volume = read("a.nrrd", HEADER, &voxels()).unwrap();
    assert_eq!(volume.info.shape, [2, 3, 2]);
    let expected = [[-0.5, 0.0, 0.0, 10.0], [0.0, -0.6, 0.0, -20.0], [0.0, 0.0, 3.0, 30.0], place::LAST_ROW];
    assert_eq!(volume.info.affine, expected);
    assert_eq!(volume.info.notes, []);
    assert_eq!(volume.file_bytes, HEADER.len() as u64 + 1 + 24);
}

#[test]
fn spaces_units_and_plain_spacings_give_the_place() {
    let affine = |from: &str, to: &str| {
        let info = read("a.nrrd", &HEADER.replace(from, to), &voxels()).unwrap().info;
        ([info.affine[0][0], info.affine[1][1], info.affine[0][3], info.affine[1][3]], info.notes)
    };
    let lps = "left-posterior-superior";
    assert_eq!(affine(lps, "LPS").0, [-0.5, -0.6, 10.0, -20.0]);
    assert_eq!(affine(lps, "right-anterior-superior").0, [0.5, 0.6, -10.0, 20.0]);
    assert_eq!(affine(lps, "left-anterior-superior").0, [-0.5, 0.6, 10.0, 20.0]);
    let assumed = |space: &str| vec![HeaderNote::SpaceAssumed { space: space.to_owned() }];
    for space in ["scanner-xyz", "3D-right-handed", "3D-left-handed"] {
        assert_eq!(affine(lps, space), ([-0.5, -0.6, 10.0, -20.0], assumed(space)));
    }
    assert_eq!(affine("space: left-posterior-superior", "space dimension: 3").1, assumed(""));
    let metres = HEADER.replace("kinds", "space units: \"m\" \"m\" \"m\"\nkinds");
    let metres = metres.replace("(0.5,0,0) (0,0.6,0) (0,0,3)", "(0.0005,0,0) (0,0.0006,0) (0,0,0.003)");
    let info = read("a.nrrd", &metres.replace("(-10,20,30)", "(-0.01,0.02,0.03)"), &voxels()).unwrap().info;
    assert!((info.affine[1][1] + 0.6).abs() < 1e-12 && (info.affine[0][3] - 10.0).abs() < 1e-12);
    assert_eq!(info.notes, [HeaderNote::Converted { unit: "metres" }]);
    let unused = |unit: &str| affine("kinds", &format!("units: \"mm\" \"{unit}\" \"\"\nkinds")).1;
    assert_eq!((unused("mm"), unused("millimeters"), unused("cm").len()), (vec![], vec![], 1));
    let told = unused("cm")[0].to_string();
    assert_eq!(told, "units is \"cm\"; lengths are taken as mm, as in ITK; check the voxel sides");
    let plain = HEADER.replace("space directions: (0.5,0,0) (0,0.6,0) (0,0,3)", "spacings: 0.5 0.6 3");
    let plain = plain.replace("space: left-posterior-superior\n", "").replace("space origin: (-10,20,30)\n", "");
    let info = read("a.nrrd", &plain, &voxels()).unwrap().info;
    assert_eq!((info.affine[0], info.notes), ([-0.5, 0.0, 0.0, 0.0], assumed("")));
}

#[test]
fn names_of_fields_without_blanks_are_those_with_them() {
    let header = HEADER.replace("kinds", "space units: \"cm\" \"cm\" \"cm\"\nbyte skip: 0\nline skip: 0\nkinds");
    let info = |header: &str| read("a.nrrd", header, &voxels()).unwrap().info;
    let expected = info(&header);
    for name in ["space directions", "space origin", "space units", "byte skip", "line skip"] {
        let joined = header.replace(&format!("{name}:"), &format!("{}:", name.replace(' ', "")));
        assert_ne!(joined, header, "{name}");
        let found = info(&joined);
        assert_eq!((found.affine, found.notes), (expected.affine, expected.notes.clone()), "{name}");
    }
    let four = HEADER.replace("space: left-posterior-superior", "spacedimension: 4");
    assert_eq!(read("a.nrrd", &four, &voxels()).unwrap_err(), "header field `space dimension` is \"4\"; expected 3");
    let twice = format!("{HEADER}spaceorigin: (0,0,0)\n");
    let text = read("a.nrrd", &twice, &voxels()).unwrap_err();
    assert!(text.contains("each field once"), "{text}");
}

#[test]
fn every_space_named_in_words_places_the_scan_alike() {
    let axes = [["right", "left"], ["anterior", "posterior"], ["superior", "inferior"]];
    // Place of the first voxel and offsets along the array's axes, in RAS.
    let (origin, offsets) = ([10.0, -20.0, 30.0], [[-0.5, 0.25, 0.0], [0.0, -0.75, 0.5], [0.25, 0.0, 3.0]]);
    let mut spaces = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for signs in 0..8usize {
            let is_against = |axis: usize| (signs >> axis) & 1;
            let space = order.map(|axis| axes[axis][is_against(axis)]).join("-");
            let vector = |ras: [f64; 3]| {
                let own = order.map(|axis| if is_against(axis) == 1 { -ras[axis] } else { ras[axis] });
                format!("({})", own.map(|part| part.to_string()).join(","))
            };
            let header = HEADER
                .replace("left-posterior-superior", &space)
                .replace("(0.5,0,0) (0,0.6,0) (0,0,3)", &offsets.map(vector).join(" "))
                .replace("(-10,20,30)", &vector(origin));
            let info = parse(header.as_bytes()).unwrap().info;
            assert_eq!((info.affine, info.notes), (place::affine(offsets, origin), vec![]), "{space}");
            spaces.push(space);
        }
    }
    spaces.sort();
    spaces.dedup();
    assert_eq!(spaces.len(), 48);
}

#[test]
fn names_of_segments_are_those_of_their_label_values() {
    assert!(parse(HEADER.as_bytes()).unwrap().info.names.is_empty());
    let header = format!(
        "{HEADER}Segment0_LabelValue:=3\nSegment1_Name:=Segment_2\nSegment1_LabelValue:=2\nSegment2_Name:=right: kidney\n\
         Segment2_LabelValue:=1\nSegment3_Name:=lost\nSegmentation_Source:=CT\nSegmentX_Name:=x\n\
         Segment4_Name:=Segment_1_1\nSegment4_LabelValue:=4\nSegment5_Name:=Label_5\nSegment5_LabelValue:=5\n"
    );
    let names = [(1, "right: kidney"), (3, "liver: left")].map(|(value, name)| (value, name.to_owned()));
    assert_eq!(parse(header.as_bytes()).unwrap().info.names, names.into());
}

#[test]
fn spaces_of_unknown_meaning_are_refused() {
    for space in
        ["RPI", "LPI", "rps", "talairach", "left-posterior", "left-right-superior", "left-posterior-superior-x"]
    {
        let error = parse(HEADER.replace("left-posterior-superior", space).as_bytes()).err().unwrap().to_string();
        let expected = format!(
            "header field `space` is {space:?}; expected RAS, LAS, LPS, or a direction of each axis in words, such as \
             right-posterior-superior"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn a_fourth_axis_of_one_voxel_and_no_direction_changes_nothing() {
    let header = HEADER.replace("dimension: 3", "dimension: 4").replace("sizes: 2 3 2", "sizes: 2 3 2 1");
    let header = header.replace("(0,0,3)", "(0,0,3) none").replace("domain domain domain", "domain domain domain list");
    let volume = read("a.nrrd", &header, &voxels()).unwrap();
    let plain = read("a.nrrd", HEADER, &voxels()).unwrap();
    assert_eq!((volume.info.shape, volume.info.affine), (plain.info.shape, plain.info.affine));
    assert_eq!((volume.info.notes.len(), values(&volume)), (0, values(&plain)));
}

#[test]
fn voxels_behind_the_last_slice_are_reported() {
    let shorter = HEADER.replace("sizes: 2 3 2", "sizes: 2 3 1");
    let packed = shorter.replace("encoding: raw", "encoding: gzip");
    for (header, data) in [(&shorter, voxels()), (&packed, gzip(&voxels()))] {
        assert_eq!(read("a.nrrd", header, &data).unwrap().info.notes, [HeaderNote::Surplus { slices: 1 }]);
    }
    let line = [voxels(), b"\n".to_vec()].concat();
    assert_eq!(read("a.nrrd", HEADER, &line).unwrap().info.notes, []);
}

#[test]
fn encodings_and_orders_of_bytes_are_read() {
    check(HEADER, &voxels());
    check(&HEADER.replace('\n', "\r\n"), &[b"".as_slice(), &voxels()].concat()[..]);
    check(&HEADER.replace("raw", "gzip"), &gzip(&voxels()));
    let big: Vec<u8> = voxels().chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    check(&HEADER.replace("little", "big"), &big);
    let text = (0..12).map(|at| (at * 10 - 50).to_string()).collect::<Vec<_>>().join(" \n");
    check(&HEADER.replace("raw", "ascii"), text.as_bytes());
    check(&HEADER.replace("raw", "text").replace("endian: little\n", ""), text.as_bytes());
    check(&format!("{HEADER}byte skip: 3\n"), &[b"abc", &voxels()[..]].concat());
    check(&format!("{HEADER}byte skip: -1\n"), &[b"abc", &voxels()[..]].concat());
    check(&format!("{HEADER}line skip: 2\nbyte skip: 1\n"), &[b"a\nb\n.", &voxels()[..]].concat());
    let skipped = HEADER.replace("raw", "gzip") + "line skip: 1\nbyte skip: 2\n";
    check(&skipped, &[b"text\n", &gzip(&[b"xx", &voxels()[..]].concat())[..]].concat());
    // A fourth axis of one voxel.
    let four = HEADER.replace("dimension: 3", "dimension: 4").replace("2 3 2", "2 3 2 1");
    check(&four.replace("(0,0,3)", "(0,0,3) none"), &voxels());
}

#[test]
fn voxels_in_a_file_of_their_own_are_read_from_the_same_folder_only() {
    let header = |name: &str| format!("{HEADER}data file: {name}\n");
    for name in ["a.raw", "./a.raw"] {
        let volume = read("a.nhdr", &header(name), b"").unwrap();
        assert_eq!(values(&volume)[11], 60.0);
        assert_eq!(volume.file_bytes, header(name).len() as u64 + 1 + 24);
    }
    for name in ["../a.raw", "/etc/passwd", "sub/a.raw", "..", "a\\b.raw"] {
        let error = read("a.nhdr", &header(name), b"").unwrap_err();
        assert!(error.contains("expected one file in the folder of its header"), "{error}");
    }
    let error = read("a.nhdr", &header("gone.raw"), b"").unwrap_err();
    assert!(error.starts_with("voxels in the file \"gone.raw\" next to this header: cannot open: "), "{error}");
    let error = read("a.nrrd", &header("a.raw"), b"").unwrap_err();
    assert!(error.ends_with("takes a header named .nhdr or .mhd; rename this file"), "{error}");
    for name in ["LIST", "slice%03d.raw 1 9 1"] {
        assert!(read("a.nhdr", &header(name), b"").unwrap_err().contains("join the slices"));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.nhdr"), header("a.raw")).unwrap();
    assert_eq!(super::super::detached(&dir.path().join("a.nhdr")), Some(dir.path().join("a.raw")));
    assert_eq!(super::super::detached(&dir.path().join("b.nhdr")), None);
    assert_eq!(super::super::detached(Path::new("a.nii.gz")), None);
}

#[test]
fn labels_are_read_like_those_of_other_formats() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.seg.nrrd");
    let header = HEADER.replace("short", "unsigned char").replace("endian: little\n", "");
    std::fs::write(&path, [header.as_bytes(), b"\n", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]].concat()).unwrap();
    assert_eq!(read_labels(&path).unwrap().voxels, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]);
    assert_eq!(read_info(&path).unwrap().data_bytes, 12);
}

#[test]
fn unusable_headers_are_refused_in_one_line() {
    for (from, to, expected) in [
        ("NRRD0004", "NIfTI", "not an NRRD file (it does not begin with NRRD000)"),
        ("type: short", "type: block", "header field `type` is \"block\"; expected one number per voxel"),
        ("type: short\n", "", "header without the field `type`"),
        ("sizes: 2 3 2", "sizes: 2 3", "header field `dimension` is \"3\"; expected 2, the number of sizes"),
        ("sizes: 2 3 2", "sizes: 2 3 -2", "header field `sizes` is \"2 3 -2\"; expected whole numbers"),
        ("sizes: 2 3 2", "sizes: 2 3 0", "image of shape [2, 3, 0]; expected three lengths of 1 to 32767"),
        ("sizes: 2 3 2", "sizes: 32767 32767 32767", "shape [32767, 32767, 32767] is larger than any scan"),
        ("sizes: 2 3 2", "sizes: 9000 9000 200", "header promises 9000 x 9000 x 200 voxels, but 32399999976 of"),
        ("encoding: raw", "encoding: bzip2", "expected raw, gzip or text"),
        ("encoding: raw", "encoding: text", "voxel 0 is"),
        ("encoding: raw", "encoding: gzip", "not valid compressed data"),
        ("endian: little\n", "", "header without the field `endian`"),
        ("(0,0,3)", "(0,0,0)", "spacing of 0 mm"),
        ("(0,0,3)", "(0,0,nan)", "header field `space directions` is"),
        ("(0,0,3)", "(0.5,0.6,0)", "affine whose axes span no volume"),
        ("(0,0,3)", "none", "header field `space directions` is"),
        ("(0,0,3)", "", "expected a vector for each axis"),
        ("(-10,20,30)", "(-10,20)", "header field `space origin` is"),
        ("kinds:", "kinds", "header line \"kinds domain domain domain\": expected `field: value`"),
        ("left-posterior-superior", "left-posterior-superior-time", "expected a space of three dimensions"),
        ("space: ", "type: ", "header line \"type: left-posterior-superior\": expected each field once"),
    ] {
        let error = read("a.nrrd", &HEADER.replace(from, to), &voxels()).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{to}: {error}");
    }
    assert!(
        read("a.nrrd", &HEADER.replace("raw", "gzip").replace("2 3 2", "9000 9000 200"), &gzip(&voxels()))
            .unwrap_err()
            .contains("compressed bytes cannot hold")
    );
    let bomb = read("a.nrrd", &HEADER.replace("raw", "gzip"), &gzip(&vec![0; 65 << 20])).unwrap_err();
    assert_eq!(bomb, "more than 67108864 bytes follow the 24 that the header promises");
    let endless = read("a.nrrd", &format!("NRRD0004\n#{}", "x".repeat(2 << 20)), b"").unwrap_err();
    assert_eq!(endless, "header does not end within its first 1048576 bytes");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cut.nrrd"), &HEADER.as_bytes()[..80]).unwrap();
    assert!(read_info(&dir.path().join("cut.nrrd")).is_err());
}

#[test]
fn axes_that_are_not_those_of_space_are_refused() {
    let refused = |from: &str, to: &str, expected: &str| {
        let header = HEADER.replace(from, to);
        assert_ne!(header, HEADER);
        let error = parse(header.as_bytes()).err().map(|fault| fault.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{error}");
    };
    refused("kinds: domain domain domain", "kinds: vector domain domain", "colours and vectors are not read");
    refused("kinds: domain domain domain", "kinds: domain domain time", "kinds");
    refused("space origin: (-10,20,30)", "axis mins: 1 2 3", "axis mins");
    refused("space: left-posterior-superior", "space: left posterior superior time", "three dimensions");
    refused("space origin: (-10,20,30)", "space units: \"cm\" \"cm\" \"mm\"", "space units");
    refused("space origin: (-10,20,30)", "space units: \"inch\" \"inch\" \"inch\"", "space units");
    for space in ["left posterior superior", "LeftPosteriorSuperior", "LPS"] {
        let header = HEADER.replace("left-posterior-superior", space);
        let info = parse(header.as_bytes()).unwrap().info;
        assert_eq!((info.affine[0][3], info.notes.len()), (10.0, 0), "{space}");
    }
}
