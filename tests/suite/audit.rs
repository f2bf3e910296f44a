//! The audit on the CPU path: counts that are known, every 16-bit value, appending, and the loss scale.

use macheps::ops::audit::cases::verify_cases;
use macheps::ops::audit::{LOWEST_EXPONENT, TensorAudit, audit, cpu, reference};
use macheps::{Context, Element, Error, bf16, f16};
use proptest::prelude::*;

fn bin(exponent: i32) -> usize {
    (exponent - LOWEST_EXPONENT) as usize
}

#[test]
fn counts_what_is_there() {
    let values = [
        1.0f32,
        -1.5,
        0.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
        1e-40,
        65520.0,
        65519.0,
    ];
    let a = audit(&Context::cpu(), &values).unwrap();
    assert_eq!(
        (a.elements, a.nans, a.positive_infinities, a.negative_infinities),
        (10, 1, 1, 1)
    );
    assert_eq!((a.zeros, a.subnormals, a.first_bad), (2, 1, Some(4)));
    assert_eq!(
        (a.exponents[bin(0)], a.exponents[bin(15)], a.exponents[bin(-133)]),
        (2, 2, 1)
    );
    assert_eq!((a.f16.overflows, a.f16.vanishes, a.f16.subnormals), (1, 1, 0));
    assert_eq!((a.bf16.overflows, a.bf16.vanishes, a.bf16.subnormals), (0, 0, 1));
    assert_eq!((a.min_magnitude(), a.max_magnitude()), (Some(1e-40), Some(65520.0)));
}

#[test]
fn every_16_bit_value_is_counted_right() {
    fn all<T: Element>() {
        let values: Vec<T> = (0..=u16::MAX)
            .map(|bits| bytemuck::cast_slice::<u16, T>(&[bits])[0])
            .collect();
        assert_eq!(cpu::audit(&values), reference::audit(&values));
        let wide: Vec<f32> = values.iter().map(|v| v.to_f32()).collect();
        assert_eq!(cpu::audit(&wide), reference::audit(&wide));
    }
    all::<f16>();
    all::<bf16>();
}

#[test]
fn cases_agree_with_the_oracle() {
    for case in verify_cases() {
        let (got, want) = case.run(&Context::cpu()).unwrap();
        assert_eq!(got, want, "{case:?}");
    }
}

#[test]
fn loss_scales_lift_the_share_asked_for() {
    // A value in each binade from 2^-40 to 2^-1.
    let values: Vec<f32> = (1..=40).map(|e| 2f32.powi(-e)).collect();
    let a = audit(&Context::cpu(), &values).unwrap();
    for (share, exponent) in [(1.0, 16), (0.9, 12), (0.6, 0), (0.0, 0)] {
        let scale = a.loss_scale(share).unwrap().unwrap();
        assert_eq!(scale.exponent, exponent, "{share}");
        assert!(scale.share_after >= share && (scale.share_before - 0.6).abs() < 1e-12);
        let lifted = values
            .iter()
            .filter(|&&v| v * 2f32.powi(exponent as i32) >= 2f32.powi(-24))
            .count();
        assert_eq!(scale.share_after, lifted as f64 / 40.0);
    }
    assert!(a.loss_scale(1.0).unwrap().unwrap().overflows == 0);
    let tiny = audit(&Context::cpu(), &[f32::from_bits(1), 3.0]).unwrap();
    let scale = tiny.loss_scale(1.0).unwrap().unwrap();
    assert_eq!((scale.exponent, scale.overflows), (125, 1));
    assert!(
        audit(&Context::cpu(), &[0.0f32, f32::NAN])
            .unwrap()
            .loss_scale(1.0)
            .unwrap()
            .is_none()
    );
    assert!(matches!(a.loss_scale(1.5), Err(Error::Option { .. })));
    assert!(matches!(a.loss_scale(f64::NAN), Err(Error::Option { .. })));
    assert!(TensorAudit::from_counts(macheps::DType::F32, 1, &[0; 5]).is_err());
}

proptest! {
    #[test]
    fn parts_add_up(values in prop::collection::vec(any::<u32>(), 0..3000), cut in 0usize..3000) {
        let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
        let cut = cut.min(values.len());
        let mut parts = cpu::audit(&values[..cut]);
        parts.append(&cpu::audit(&values[cut..]));
        prop_assert_eq!(&parts, &reference::audit(&values));
        prop_assert_eq!(parts.nonzero() + parts.zeros + parts.bad(), values.len() as u64);
    }
}

#[cfg(feature = "cli")]
mod command {
    use safetensors::tensor::{Dtype, TensorView};
    use serde_json::Value;
    use std::path::Path;
    use std::process::{Command, Output};

    fn macheps(args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_macheps"))
            .args(args)
            .env_remove("MACHEPS_DEVICE")
            .output()
            .expect("macheps starts")
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn model(path: &Path, bad: bool) {
        let good = bytes(&[1.0, 2.0, 1e-9, 0.0]);
        let other = bytes(&[1.0, if bad { f32::NAN } else { 7e4 }]);
        let half: Vec<u8> = [0x3c00u16, 0x0001].iter().flat_map(|v| v.to_le_bytes()).collect();
        let labels = vec![1u8, 2];
        let views = [
            ("layer.weight", TensorView::new(Dtype::F32, vec![2, 2], &good)),
            ("layer.bias", TensorView::new(Dtype::F32, vec![2], &other)),
            ("half", TensorView::new(Dtype::F16, vec![2], &half)),
            ("labels", TensorView::new(Dtype::U8, vec![2], &labels)),
        ]
        .map(|(name, view)| (name, view.unwrap()));
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn audits_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let (model_path, svg) = (path.to_str().unwrap(), folder.path().join("m.svg"));
        model(&path, false);
        let output = macheps(&[
            "audit",
            model_path,
            "--device",
            "cpu",
            "--json",
            "-",
            "--svg",
            svg.to_str().unwrap(),
        ]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["schema"], "macheps.audit/1");
        let tensors = document["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 3);
        let of = |name: &str| {
            tensors
                .iter()
                .find(|t| t["source"].as_str().unwrap().ends_with(name))
                .unwrap()
        };
        assert_eq!(of("#layer.weight")["f16"]["vanishes"], 1);
        assert_eq!(of("#layer.weight")["loss_scales"][1]["exponent"], 6);
        assert_eq!(of("#layer.bias")["f16"]["overflows"], 1);
        assert_eq!(of("#half")["subnormals"], 1);
        assert_eq!(document["total"]["elements"], 8);
        assert!(document["first_bad_tensor"].is_null());
        assert!(document["skipped"][0].as_str().unwrap().contains("labels"));
        let drawn = std::fs::read_to_string(&svg).unwrap();
        assert!(drawn.trim_end().ends_with("</svg>") && drawn.contains("layer.bias") && !drawn.contains("NaN\""));
    }

    #[test]
    fn names_the_first_bad_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        model(&path, true);
        let model_path = path.to_str().unwrap();
        let output = macheps(&["audit", model_path, "--device", "cpu"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("1 of 3 tensors") && said.contains("#layer.bias from element 1 on"),
            "{said}"
        );
        let one = macheps(&["audit", &format!("{model_path}#layer.weight"), "--device", "cpu"]);
        assert_eq!(one.status.code(), Some(0));
        for (source, part) in [
            (format!("{model_path}#none"), "no tensor named 'none'"),
            ("none.safetensors".to_string(), "cannot be opened"),
            ("none.txt".to_string(), "unknown kind of file"),
        ] {
            let output = macheps(&["audit", &source, "--device", "cpu"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(part), "{said}");
        }
        std::fs::write(&path, b"\x10\0\0\0\0\0\0\0{\"a\":").unwrap();
        assert_eq!(macheps(&["audit", model_path]).status.code(), Some(2));
        assert_eq!(macheps(&["audit"]).status.code(), Some(2));
    }
}
