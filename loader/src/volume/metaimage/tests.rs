//! Headers as ITK writes them, and invalid ones.

use super::super::{Volume, detached, read_volume};
use super::*;

/// Header with a grid turned about two axes: the first row of the matrix is the direction of the first axis.
const HEADER: &str = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
    CompressedData = False\nTransformMatrix = 0 1 0 0 0 1 1 0 0\nOffset = -10 20 30\nCenterOfRotation = 0 0 0\n\
    AnatomicalOrientation = PSL\nElementSpacing = 0.5 0.6 3\nDimSize = 2 3 2\nElementType = MET_SHORT\n";

fn voxels() -> Vec<u8> {
    (0..12i16).flat_map(|value| (value * 10 - 50).to_le_bytes()).collect()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

fn read(name: &str, header: &str, data: &[u8]) -> Result<Volume, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, [header.as_bytes(), data].concat()).unwrap();
    std::fs::write(dir.path().join("a.raw"), voxels()).unwrap();
    std::fs::write(dir.path().join("a.zraw"), zlib(&voxels())).unwrap();
    read_volume(&path).map_err(|err| err.reason.to_string())
}

fn check(name: &str, header: &str, data: &[u8]) {
    let volume = read(name, header, data).unwrap();
    let mut values = [0.0; 12];
    volume.read_f32(0, &mut values);
    let expected: Vec<f32> = (0..12u8).map(|at| f32::from(at) * 10.0 - 50.0).collect();
    assert_eq!(values.as_slice(), expected, "{header}");
}

fn local(header: &str) -> String {
    format!("{header}ElementDataFile = LOCAL\n")
}

#[test]
fn the_rows_of_the_matrix_are_axes_in_lps() {
    let info = read("a.mha", &local(HEADER), &voxels()).unwrap().info;
    // The first axis runs to the back, the second one up, the third one to the left.
    let expected = [[0.0, 0.0, -3.0, 10.0], [-0.5, 0.0, 0.0, -20.0], [0.0, 0.6, 0.0, 30.0], place::LAST_ROW];
    assert_eq!(info.affine, expected);
    assert_eq!((info.shape, info.notes), ([2, 3, 2], vec![]));
    let plain = HEADER.replace("ElementSpacing = 0.5 0.6 3\n", "");
    assert_eq!(read("a.mha", &local(&plain), &voxels()).unwrap().info.notes, [HeaderNote::NoSpacing]);
}

#[test]
fn units_that_itk_does_not_read_are_reported() {
    let notes = |unit: &str| {
        let volume = read("a.mha", &local(&format!("{HEADER}DistanceUnits = {unit}\n")), &voxels()).unwrap();
        volume.info.notes.iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    assert!(notes("mm").is_empty() && notes("?").is_empty());
    assert_eq!(notes("cm"), ["DistanceUnits is \"cm\"; lengths are taken as mm, as in ITK; check the voxel sides"]);
}

#[test]
fn forms_of_voxels_are_read() {
    check("a.mha", &local(HEADER), &voxels());
    check("a.MHA", &local(&HEADER.replace('\n', "\r\n")), &voxels());
    check("a.mha", &local(&HEADER.replace("CompressedData = False", "CompressedData = True")), &zlib(&voxels()));
    let big: Vec<u8> = voxels().chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    check("a.mha", &local(&HEADER.replace("ByteOrderMSB = False", "ByteOrderMSB = True")), &big);
    let text = (0..12).map(|at| (at * 10 - 50).to_string()).collect::<Vec<_>>().join(" ");
    check("a.mha", &local(&HEADER.replace("BinaryData = True", "BinaryData = False")), text.as_bytes());
    check("a.mhd", &format!("{HEADER}ElementDataFile = a.raw\n"), b"");
    let compressed = HEADER.replace("CompressedData = False", "CompressedData = True");
    check("a.mhd", &format!("{compressed}ElementDataFile = a.zraw\n"), b"");
    check("a.mha", &local(&format!("{HEADER}HeaderSize = -1\n")), &[b"abc", &voxels()[..]].concat());
    let four = HEADER.replace("NDims = 3", "NDims = 4").replace("2 3 2", "2 3 2 1").replace("0.5 0.6 3", "0.5 0.6 3 1");
    let four = four.replace("0 1 0 0 0 1 1 0 0", "0 1 0 0 0 0 1 0 1 0 0 0 0 0 0 1").replace("-10 20 30", "-10 20 30 0");
    check("a.mha", &local(&four), &voxels());
}

#[test]
fn the_file_of_the_voxels_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mhd");
    std::fs::write(&path, format!("{HEADER}ElementDataFile = a.raw\n")).unwrap();
    assert_eq!(detached(&path), Some(dir.path().join("a.raw")));
    std::fs::write(&path, format!("{HEADER}ElementDataFile = ../a.raw\n")).unwrap();
    assert_eq!(detached(&path), None);
    std::fs::write(&path, local(HEADER)).unwrap();
    assert_eq!(detached(&path), None);
}

#[test]
fn a_fault_of_the_file_of_the_voxels_names_header_and_file() {
    let fault = |header: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.mhd");
        std::fs::write(&path, header).unwrap();
        std::fs::write(dir.path().join("a.raw"), voxels()).unwrap();
        let error = read_volume(&path).unwrap_err();
        assert_eq!(error.path, path);
        error.reason.to_string()
    };
    let remedy = "; copy both files again, or correct the header";
    let gone = fault(&format!("{HEADER}ElementDataFile = gone.raw\n"));
    assert!(gone.starts_with("voxels in the file \"gone.raw\" next to this header: cannot open: "), "{gone}");
    assert!(gone.ends_with(remedy), "{gone}");
    let longer = HEADER.replace("DimSize = 2 3 2", "DimSize = 2 3 3");
    let short = fault(&format!("{longer}ElementDataFile = a.raw\n"));
    let problem = "header promises 2 x 3 x 3 voxels, but 12 of 36 bytes are missing";
    assert_eq!(short, format!("voxels in the file \"a.raw\" next to this header: {problem}{remedy}"));
    let compressed = HEADER.replace("CompressedData = False", "CompressedData = True");
    let damaged = fault(&format!("{compressed}ElementDataFile = a.raw\n"));
    assert!(damaged.contains("\"a.raw\"") && damaged.contains("not valid compressed data"), "{damaged}");
}

#[test]
fn unusable_headers_are_refused_in_one_line() {
    for (from, to, expected) in [
        ("ObjectType = Image", "ObjectType = Tube", "header field `ObjectType` is \"Tube\"; expected Image"),
        ("ObjectType = Image", "hello", "not a MetaImage file (it does not begin with ObjectType or NDims)"),
        ("NDims = 3", "NDims = 2", "header field `NDims` is \"2\"; expected 3"),
        ("NDims = 3\n", "", "header without the field `NDims`"),
        ("DimSize = 2 3 2", "DimSize = 2 3 99", "but 1164 of"),
        ("MET_SHORT", "MET_SHORT_ARRAY", "header field `ElementType` is"),
        ("MET_SHORT", "MET_SHORT\nElementNumberOfChannels = 3", "expected 1"),
        ("0 1 0 0 0 1 1 0 0", "0 1 0 0 0 1 1 0", "expected 9 numbers"),
        ("0 1 0 0 0 1 1 0 0", "0 1 0 0 1 0 1 0 0", "affine whose axes span no volume"),
        ("0.5 0.6 3", "0.5 0.6 0", "expected positive lengths"),
        ("0.5 0.6 3", "0.5 -0.6 3", "expected positive lengths"),
        ("-10 20 30", "-10 20 inf", "header field `Offset` is"),
        ("BinaryData = True", "BinaryData = Yes", "expected True or False"),
        ("CompressedData = False", "CompressedData = True", "not valid compressed data"),
        ("CenterOfRotation = 0 0 0", "ElementToIntensityFunctionSlope = 2", "expected 1; store the scaled values"),
        ("CenterOfRotation = 0 0 0", "Position = 1 2 3", "expected each field once"),
        ("CenterOfRotation = 0 0 0", "CenterOfRotation", "expected `Name = value`"),
        ("CenterOfRotation = 0 0 0", "HeaderSize = 5", "header field `HeaderSize` is"),
    ] {
        let error = read("a.mha", &local(&HEADER.replace(from, to)), &voxels()).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{to}: {error}");
    }
    let compressed = local(&HEADER.replace("CompressedData = False", "CompressedData = True"));
    let bomb = read("a.mha", &compressed, &zlib(&vec![0; 65 << 20])).unwrap_err();
    assert_eq!(bomb, "more than 67108864 bytes follow the 24 that the header promises");
    let promise = read("a.mha", &compressed.replace("2 3 2", "9000 9000 200"), &zlib(&voxels())).unwrap_err();
    assert!(promise.contains("compressed bytes cannot hold"), "{promise}");
    assert!(read("a.mha", HEADER, b"").unwrap_err().contains("header without the field `ElementDataFile`"));
    for name in ["LIST", "LIST 2", "slice%03d.raw 1 9 1"] {
        let error = read("a.mhd", &format!("{HEADER}ElementDataFile = {name}\n"), b"").unwrap_err();
        assert!(error.contains("join the slices"), "{error}");
    }
    let error = read("a.mha", &format!("{HEADER}ElementDataFile = a.raw\n"), b"").unwrap_err();
    assert!(error.ends_with("rename this file"), "{error}");
}

#[test]
fn files_of_other_formats_are_not_taken_for_headers() {
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"a NIfTI file").unwrap();
        encoder.finish().unwrap()
    };
    for bytes in [&b""[..], b"\n\n", b"\x1f\x8b\x08=\xff\n", b"two words = 3\n", &gzip] {
        let fault = parse(bytes).err().map(|fault| fault.to_string()).unwrap_or_default();
        assert!(fault.starts_with("not a MetaImage file"), "{bytes:?}: {fault}");
    }
}
