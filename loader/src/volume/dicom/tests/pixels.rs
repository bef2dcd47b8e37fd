//! Values of pixels: their bits, their compression, and their scale.

use super::*;

#[test]
fn values_of_other_modalities_have_no_unit() {
    let mr = |slice: TestSlice| {
        let slice = slice.text(tags::MODALITY, VR::CS, "MR").without(tags::RESCALE_SLOPE);
        slice.without(tags::RESCALE_INTERCEPT).text(tags::RESCALE_TYPE, VR::LO, "US")
    };
    let series: Vec<TestSlice> = slices().into_iter().map(mr).collect();
    let stored: Vec<f32> = expected().into_iter().map(|hu| hu + 1024.0).collect();
    let volume = read(&series).unwrap();
    assert_eq!(values(&volume), stored);
    assert!(notes(&volume).is_empty(), "{:?}", notes(&volume));
    // Padding of 0 is what padding becomes; another value may be tissue.
    let padded = |value: u16| -> Vec<TestSlice> {
        series.iter().map(|slice| slice.clone().number(tags::PIXEL_PADDING_VALUE, value)).collect()
    };
    let volume = read(&padded(0)).unwrap();
    assert!(values(&volume) == stored && notes(&volume).is_empty(), "{:?}", notes(&volume));
    let volume = read(&padded(1010)).unwrap();
    assert_eq!(values(&volume), stored);
    assert_eq!(notes(&volume), ["PixelPaddingValue means 1010, which tissue may have; such voxels are kept"]);
    // A range that begins with 0, in any slice.
    for first_slice in [0, 1] {
        let mut series = padded(0);
        for slice in &mut series[first_slice..] {
            *slice = slice.clone().number(tags::PIXEL_PADDING_RANGE_LIMIT, 1010);
        }
        let volume = read(&series).unwrap();
        assert_eq!(values(&volume), stored);
        let text =
            "PixelPaddingValue to PixelPaddingRangeLimit means 0 to 1010, which tissue may have; such voxels are kept";
        assert_eq!(notes(&volume), [text]);
    }
    // Below 0 nothing but padding is expected: such voxels become empty.
    let negative: Vec<TestSlice> = slices()
        .into_iter()
        .map(|slice| {
            let slice = slice.text(tags::MODALITY, VR::CS, "MR").text(tags::RESCALE_INTERCEPT, VR::DS, "-1010");
            slice.number(tags::PIXEL_PADDING_VALUE, 1000)
        })
        .collect();
    let volume = read(&negative).unwrap();
    let mut wanted: Vec<f32> = stored.iter().map(|value| value - 1010.0).collect();
    wanted[0] = 0.0;
    assert_eq!(values(&volume), wanted);
    // A range from there up to 0 as well.
    let up_to_0: Vec<TestSlice> =
        negative.iter().map(|slice| slice.clone().number(tags::PIXEL_PADDING_RANGE_LIMIT, 1010)).collect();
    let volume = read(&up_to_0).unwrap();
    assert_eq!(values(&volume), wanted);
    assert!(notes(&volume).is_empty(), "{:?}", notes(&volume));
    let mut mixed = slices();
    mixed[2] = mr(mixed[2].clone());
    check_refused(&mixed, "images of different modalities in one series");
}

#[test]
fn each_slice_has_its_own_rescaling() {
    let mut series = slices();
    series[1] =
        series[1].clone().text(tags::RESCALE_SLOPE, VR::DS, "2.5").text(tags::RESCALE_INTERCEPT, VR::DS, "+1E2 ");
    let read_values = values(&read(&series).unwrap());
    let mut wanted = expected();
    for (at, value) in wanted[6..12].iter_mut().enumerate() {
        *value = (1100.0 + 10.0 * at as f32) * 2.5 + 100.0;
    }
    assert_eq!(read_values, wanted);
    let plain: Vec<TestSlice> =
        slices().iter().map(|s| s.clone().without(tags::RESCALE_SLOPE).without(tags::RESCALE_INTERCEPT)).collect();
    let volume = read(&plain).unwrap();
    assert_eq!(values(&volume)[0], 1000.0);
    assert_eq!(notes(&volume), ["no RescaleSlope and RescaleIntercept; stored values are taken as HU"]);
    let other: Vec<TestSlice> = slices().iter().map(|s| s.clone().text(tags::RESCALE_TYPE, VR::LO, "US")).collect();
    assert_eq!(notes(&read(&other).unwrap()), ["RescaleType is US, not HU; values are taken as HU"]);
}

#[test]
fn a_series_with_a_rescaling_in_some_images_only_is_refused() {
    let mut series = slices();
    for slice in &mut series[1..3] {
        *slice = slice.clone().without(tags::RESCALE_SLOPE).without(tags::RESCALE_INTERCEPT);
    }
    let text = "series 3 \"Abdomen 1.5 / B30f\": 2 of 4 images without RescaleSlope and RescaleIntercept, such as \
                IM_0001, which the others have;";
    check_refused(&series, text);
    let as_mr = |slice: &TestSlice| slice.clone().text(tags::MODALITY, VR::CS, "MR");
    check_refused(&series.iter().map(as_mr).collect::<Vec<_>>(), text);
    series[1] = series[1].clone().text(tags::RESCALE_SLOPE, VR::DS, "1");
    check_refused(&series, "RescaleIntercept is missing");
    let mut series = slices();
    series[2] = series[2].clone().text(tags::RESCALE_TYPE, VR::LO, "US");
    check_refused(&series, "images of different rescale types in one series");
    // HU is what an unnamed unit means.
    series[2] = series[2].clone().without(tags::RESCALE_TYPE);
    assert!(notes(&read(&series).unwrap()).is_empty());
}

#[test]
fn a_series_whose_values_come_from_a_table_is_refused() {
    let with_table = |num_items: usize| -> Vec<TestSlice> {
        let plain = slices().into_iter().map(|s| s.without(tags::RESCALE_SLOPE).without(tags::RESCALE_INTERCEPT));
        plain.map(|slice| slice.sequence(tags::MODALITY_LUT_SEQUENCE, num_items)).collect()
    };
    check_refused(&with_table(1), "ModalityLUTSequence maps the stored values by a table, which is not read");
    // A sequence without items holds no table.
    let empty = read(&with_table(0)).unwrap();
    assert_eq!(notes(&empty), ["no RescaleSlope and RescaleIntercept; stored values are taken as HU"]);
}

#[test]
fn an_inverted_display_is_reported_and_the_values_are_kept() {
    let inverted = |slice: TestSlice| slice.text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
    let series: Vec<TestSlice> = slices().into_iter().map(inverted).collect();
    let volume = read(&series).unwrap();
    assert_eq!(values(&volume), expected());
    let text = "PhotometricInterpretation is MONOCHROME1, which inverts the display only (DICOM PS3.3 C.7.6.3.1.2); values \
                are not inverted";
    assert_eq!(notes(&volume), [text]);
    let of_mr = |slice: TestSlice| slice.text(tags::MODALITY, VR::CS, "MR");
    let volume = read(&series.into_iter().map(of_mr).collect::<Vec<_>>()).unwrap();
    assert_eq!(notes(&volume), [text]);
    let mut mixed = slices();
    mixed[1] = inverted(mixed[1].clone());
    let text = text.replace("MONOCHROME1,", &format!("MONOCHROME1 in 1 of {} slices,", mixed.len()));
    assert_eq!(notes(&read(&mixed).unwrap()), [text]);
}

#[test]
fn projections_are_reported() {
    let projected = |slice: TestSlice| slice.text(tags::IMAGE_TYPE, VR::CS, "DERIVED\\SECONDARY\\AXIAL\\MIP");
    let notes = notes(&read(&slices().into_iter().map(projected).collect::<Vec<_>>()).unwrap());
    assert!(notes.len() == 1 && notes[0].starts_with("ImageType says that the images are projections"), "{notes:?}");
}

#[test]
fn padding_becomes_air() {
    // With one rescaling, and with several.
    let padded = |value: u16| {
        let slice = |slice: &TestSlice| {
            let slice = slice.clone().text(tags::RESCALE_INTERCEPT, VR::DS, "-3000");
            slice.number(tags::PIXEL_PADDING_VALUE, value)
        };
        slices().iter().map(slice).collect::<Vec<TestSlice>>()
    };
    for intercept in ["-3000", "-2976.5"] {
        let mut series = padded(1010);
        series[3] = series[3].clone().text(tags::RESCALE_INTERCEPT, VR::DS, intercept);
        let values = values(&read(&series).unwrap());
        assert_eq!(values[..3], [-2000.0, -1024.0, -1980.0], "{intercept}");
    }
    let range: Vec<TestSlice> =
        padded(1020).iter().map(|s| s.clone().number(tags::PIXEL_PADDING_RANGE_LIMIT, 1005)).collect();
    assert_eq!(values(&read(&range).unwrap())[..4], [-2000.0, -1024.0, -1024.0, -1970.0]);
}

#[test]
fn padding_with_a_value_of_tissue_is_not_taken_as_padding() {
    // -14 HU, as programs leave it that rescale images and keep the tag.
    let series: Vec<TestSlice> = slices().iter().map(|s| s.clone().number(tags::PIXEL_PADDING_VALUE, 1010)).collect();
    let volume = read(&series).unwrap();
    assert_eq!(values(&volume)[..3], [-24.0, -14.0, -4.0]);
    assert_eq!(notes(&volume), ["PixelPaddingValue means -14 HU, a value of tissue; such voxels are kept"]);
    // Tissue between two values that are not of tissue.
    let range = |slice: TestSlice| {
        let slice = slice.number(tags::PIXEL_PADDING_VALUE, 0);
        slice.number(tags::PIXEL_PADDING_RANGE_LIMIT, 5000)
    };
    let volume = read(&slices().into_iter().map(range).collect::<Vec<_>>()).unwrap();
    assert_eq!(values(&volume), expected());
    let text = "PixelPaddingValue to PixelPaddingRangeLimit means -1024 to 3976 HU, with values of tissue; such voxels are kept";
    assert_eq!(notes(&volume), [text]);
}

#[test]
fn stored_bits_are_numbers_and_others_are_not() {
    let form = |pixels: &[u16], signed: u16, stored: u16, high: u16| {
        let series: Vec<TestSlice> = slices()
            .iter()
            .map(|s| {
                let s = s.clone().pixels(pixels).number(tags::PIXEL_REPRESENTATION, signed);
                s.number(tags::BITS_STORED, stored).number(tags::HIGH_BIT, high)
            })
            .collect();
        values(&read(&series).unwrap())[..3].to_vec()
    };
    assert_eq!(form(&[0xf3e8, 0x0000, 0x8fff, 0, 0, 0], 0, 12, 11), [-24.0, -1024.0, 3071.0]);
    assert_eq!(form(&[0xffff, 0x0fff, 0x0800, 0, 0, 0], 1, 12, 11), [-1025.0, -1025.0, -3072.0]);
    assert_eq!(form(&[0xfff0, 0x0010, 0x8000, 0, 0, 0], 1, 12, 15), [-1025.0, -1023.0, -3072.0]);
    assert_eq!(form(&[0xf830, 0x8000, 0x7fff, 0, 0, 0], 1, 16, 15), [-3024.0, -33792.0, 31743.0]);
    assert_eq!(form(&[0xffff, 0x8000, 0x0000, 0, 0, 0], 0, 16, 15), [64511.0, 31744.0, -1024.0]);
}

#[test]
fn bits_above_the_stored_ones_are_reported_where_many_pixels_have_them() {
    let told = |pixels: &[u16], signed: u16| {
        let change = |slice: TestSlice| {
            let slice = slice.pixels(pixels).number(tags::PIXEL_REPRESENTATION, signed);
            slice.number(tags::BITS_STORED, 10).number(tags::HIGH_BIT, 9)
        };
        notes(&read(&slices().into_iter().map(change).collect::<Vec<_>>()).unwrap())
    };
    let text = "50% of the pixels have bits above BitsStored, which are dropped; check BitsStored and HighBit";
    assert_eq!(told(&[1069, 1024, 2000, 45, 0, 1023], 0), [text]);
    // An overlay, and signs.
    assert!(told(&[0x8001, 1, 2, 3, 4, 5], 0).is_empty());
    assert!(told(&[0xffff, 0xfe00, 0xff00, 3, 4, 5], 1).is_empty());
}

/// Pixels 1000, 1010, …, 1050 as JPEG Lossless of 12 bits (made with liblj92, and read alike by two other decoders).
const JPEG: &str = "ffd8ffc40016000101010000000000000000000000000004050bffc3000b0c0002000301001100ffda0008010000060000cf9d4abcf780\
                    ffd9";

fn jpeg() -> Vec<u8> {
    let digits = JPEG.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Pixels 1000, 1010, …, 1050 as RLE.
fn rle() -> Vec<u8> {
    let mut data: Vec<u8> = [2u32, 64, 70].into_iter().chain([0; 13]).flat_map(u32::to_le_bytes).collect();
    let pixels: Vec<u16> = (0..6).map(|at| 1000 + 10 * at).collect();
    // Literal runs: the high bytes with one byte too many for an even length, then the low bytes.
    data.extend([254, 3, 254, 4, 128, 128]);
    data.push(5);
    data.extend(pixels.iter().map(|pixel| pixel.to_le_bytes()[0]));
    data.push(128);
    data
}

#[test]
fn transfer_syntaxes_give_the_same_pixels_or_are_named() {
    for syntax in ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"] {
        let series: Vec<TestSlice> = slices().into_iter().map(|slice| slice.syntax(syntax)).collect();
        let volume = read(&series).unwrap();
        assert_eq!(values(&volume), expected(), "{syntax}");
    }
    let compressed = |syntax: &str, fragments: &[&[u8]]| {
        let series: Vec<TestSlice> = slices().into_iter().map(|slice| slice.encapsulated(syntax, fragments)).collect();
        read(&series).map(|volume| values(&volume)[..6].to_vec())
    };
    let wanted: Vec<f32> = expected()[..6].to_vec();
    let whole = jpeg();
    for syntax in ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57"] {
        assert_eq!(compressed(syntax, &[&whole]), Ok(wanted.clone()));
        assert_eq!(compressed(syntax, &[&whole[..30], &whole[30..]]), Ok(wanted.clone()), "two fragments");
    }
    let damaged = compressed("1.2.840.10008.1.2.4.70", &[&whole[..20]]).unwrap_err();
    assert!(damaged.contains("damaged JPEG data"), "{damaged}");
    let mut wide = whole.clone();
    // The height in the frame's header.
    let at = wide.windows(2).position(|pair| pair == [0xff, 0xc3]).unwrap();
    wide[at + 5..at + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let message = compressed("1.2.840.10008.1.2.4.70", &[&wide]).unwrap_err();
    assert!(message.contains("a JPEG of 65535 x 65535 pixels; expected 3 x 2"), "{message}");
    assert_eq!(compressed("1.2.840.10008.1.2.5", &[&rle()]), Ok(wanted));
    assert_eq!(compressed("1.2.840.10008.1.2.5", &[&rle()[..70]]), Err("pixel data: damaged RLE data".to_owned()));
    for (uid, name) in [("1.2.840.10008.1.2.4.90", "JPEG 2000"), ("1.2.840.10008.1.2.4.80", "JPEG-LS")] {
        let message = compressed(uid, &[&whole]).unwrap_err();
        let end = format!("({uid}) is not read; decompress the files first");
        assert!(message.contains(name) && message.ends_with(&end), "{message}");
    }
}
