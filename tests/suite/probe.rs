//! The numerics probe: what it says about the software drivers that the kernels were written against.

use crate::gpus::{gpus, is_software};
use macheps::gpu::Gpu;
use macheps::probe::{ProbeReport, Value, Verdict, cpu};
use std::sync::OnceLock;

/// Every adapter's report, measured once.
fn reports() -> &'static [(&'static Gpu, ProbeReport)] {
    static REPORTS: OnceLock<Vec<(&'static Gpu, ProbeReport)>> = OnceLock::new();
    REPORTS.get_or_init(|| {
        gpus()
            .iter()
            .map(|gpu| (gpu, gpu.probe().expect("the probe runs")))
            .collect()
    })
}

fn ulp(report: &ProbeReport, id: &str) -> f64 {
    report
        .max_ulp(id)
        .unwrap_or_else(|| panic!("{id} is not an accuracy: {report}"))
}

fn number(report: &ProbeReport, id: &str) -> f64 {
    report
        .number(id)
        .unwrap_or_else(|| panic!("{id} is not a number: {report}"))
}

fn flag(report: &ProbeReport, id: &str) -> bool {
    report
        .flag(id)
        .unwrap_or_else(|| panic!("{id} is not a yes or no: {report}"))
}

fn text<'a>(report: &'a ProbeReport, id: &str) -> &'a str {
    match &report.get(id).unwrap_or_else(|| panic!("no fact {id}")).value {
        Value::Text(text) => text,
        other => panic!("{id} is {other}"),
    }
}

fn verdict(report: &ProbeReport, id: &str) -> Verdict {
    report.get(id).unwrap_or_else(|| panic!("no fact {id}")).verdict
}

fn is_missing(report: &ProbeReport, id: &str) -> bool {
    matches!(report.get(id).map(|f| &f.value), Some(Value::NotAvailable { .. }))
}

/// Errors as they were found: far beyond any usable bound.
const LOG_IS_BAD: f64 = 1e5;
const TANH_IS_BAD: f64 = 1e6;
/// What WGSL allows at 0 and what a plain softmax would lean on.
const EXP_IS_BAD: f64 = 3.0;

#[test]
fn what_the_kernels_rely_on_holds_everywhere() {
    for (gpu, report) in reports() {
        eprintln!("{report}");
        let ours = report.facts.iter().filter(|f| f.id.starts_with("m_"));
        for fact in ours {
            assert_eq!(
                fact.verdict,
                Verdict::Ok,
                "{}: {} on {}",
                fact.what,
                fact.value,
                gpu.info().label()
            );
        }
        for id in [
            "two_sum_barrier",
            "two_product_barrier",
            "kahan_barrier",
            "bit_tests",
            "subnormal_copy",
        ] {
            assert_eq!(verdict(report, id), Verdict::Ok, "{id} on {}", gpu.info().label());
        }
        assert!(
            ulp(report, "div") <= 2.5 && ulp(report, "div_constant") <= 2.5,
            "WGSL's own bound of division"
        );
    }
}

#[test]
fn lavapipe_is_as_it_was_measured() {
    for (gpu, report) in reports() {
        let vulkan = is_software(gpu, "llvmpipe", "vulkan");
        if !vulkan && !is_software(gpu, "llvmpipe", "gl") {
            continue;
        }
        if !gpu.info().driver.contains("Mesa 22.3") {
            let why = format!("the facts were measured on Mesa 22.3, this is {}", gpu.info().driver);
            crate::adapters::skipped("lavapipe_is_as_it_was_measured", &why);
            continue;
        }
        for id in ["exp_low", "exp_all"] {
            assert!(ulp(report, id) > EXP_IS_BAD, "{id}");
        }
        assert!(ulp(report, "log_near_1") > LOG_IS_BAD);
        assert!(ulp(report, "tanh_near_0") > TANH_IS_BAD);
        // The compiler cancels every error term, and what Kahan's carry would have saved is lost.
        assert_eq!(number(report, "two_sum_plain"), 0.0);
        assert_eq!(number(report, "kahan_plain"), number(report, "sum_naive"));
        assert!(!flag(report, "fma_fused") && !flag(report, "contraction"));
        // NaN tests lie on Vulkan; arithmetic is folded on both.
        assert_eq!(flag(report, "nan_ne_itself"), !vulkan);
        assert_eq!((number(report, "max_nan_1"), number(report, "max_1_nan")), (1.0, 1.0));
        for id in ["nan_times_0", "inf_times_0", "inf_minus_itself", "nan_minus_itself"] {
            assert_eq!(number(report, id), 0.0, "{id}");
        }
        for id in [
            "exp_nan",
            "exp_neg_inf",
            "log_0",
            "log_negative",
            "tanh_inf",
            "subnormal_sum",
            "subnormal_result",
            "pack_overflow",
        ] {
            assert_eq!(verdict(report, id), Verdict::Ok, "{id}");
        }
        assert_eq!(number(report, "loop_iterations"), 65535.0);
        // Loops of one invocation count together, nested or one after the other.
        for id in ["nested_iterations", "consecutive_iterations"] {
            assert!(number(report, id) < 66_100.0, "{id}");
        }
        assert_eq!(number(report, "unpack_wrong"), 0.0);
        assert_eq!(text(report, "stray_read"), "zero");
        if vulkan {
            for id in [
                "native_ties",
                "native_nearest",
                "native_overflow",
                "native_subnormals",
                "native_non_finite",
            ] {
                assert!(flag(report, id), "{id}");
            }
            assert_eq!(number(report, "native_load_wrong"), 0.0);
            assert!([4.0, 8.0, 16.0].contains(&number(report, "subgroup_size")));
            assert!(flag(report, "subgroup_order"));
        } else {
            assert!(is_missing(report, "native_ties") && is_missing(report, "subgroup_size"));
        }
    }
}

#[test]
fn swiftshader_is_as_it_was_measured() {
    for (gpu, report) in reports() {
        if !is_software(gpu, "swiftshader", "vulkan") {
            continue;
        }
        for id in ["exp_low", "exp_all"] {
            assert!(ulp(report, id) > EXP_IS_BAD, "{id}");
        }
        assert!(ulp(report, "log_near_1") > LOG_IS_BAD);
        assert!(ulp(report, "tanh_near_0") > TANH_IS_BAD);
        assert!(
            ulp(report, "div_constant") > 0.5,
            "a division by a constant is a product with its reciprocal"
        );
        assert_eq!((number(report, "log_0") * 100.0).round(), -8803.0);
        assert_eq!(number(report, "exp_nan"), f64::INFINITY);
        assert!(number(report, "tanh_inf").is_nan());
        assert!(number(report, "log_nan").is_finite() && number(report, "log_negative").is_finite());
        // A maximum depends on which side the NaN stands.
        assert!(number(report, "max_nan_1") == 1.0 && number(report, "max_1_nan").is_nan());
        assert!(!flag(report, "nan_ne_itself"));
        assert_eq!(
            (number(report, "nan_times_0"), number(report, "inf_times_0")),
            (0.0, 0.0)
        );
        assert!(!flag(report, "fma_fused"));
        // Its compiler keeps error terms, but arithmetic flushes subnormals.
        assert_eq!(number(report, "two_sum_plain"), 1.0);
        assert_eq!(number(report, "kahan_plain"), 0.0);
        for id in ["subnormal_sum", "subnormal_product", "subnormal_result"] {
            assert_eq!(number(report, id), 0.0, "{id}");
        }
        assert!(!flag(report, "subnormal_compare") && flag(report, "subnormal_copy"));
        assert!(text(report, "pack_overflow").contains("becomes NaN"));
        assert_eq!(number(report, "unpack_wrong"), 0.0);
        assert!(is_missing(report, "native_ties"));
        for id in ["loop_iterations", "nested_iterations", "consecutive_iterations"] {
            assert_eq!(number(report, id), 100_000.0, "{id}");
        }
        assert_eq!(number(report, "subgroup_size"), 4.0);
        assert!(flag(report, "subgroup_order"));
        assert_eq!(text(report, "stray_write"), "element 15 of 16");
        assert_eq!(text(report, "stray_read"), "element 63 of 64");
    }
}

#[test]
fn the_host_follows_ieee() {
    let report = cpu();
    for id in [
        "exp_low",
        "exp_all",
        "sqrt",
        "div",
        "div_all",
        "div_constant",
        "two_sum_plain",
        "kahan_plain",
        "fma_fused",
    ] {
        assert_eq!(verdict(&report, id), Verdict::Ok, "{id}");
    }
    for fact in report
        .facts
        .iter()
        .filter(|f| ["NaN and infinity", "Subnormals", "16-bit conversion"].contains(&f.group))
    {
        assert_ne!(fact.verdict, Verdict::Beware, "{}", fact.what);
    }
    assert!(is_missing(&report, "m_exp") && is_missing(&report, "subgroup_size"));
}

#[test]
fn reports_have_one_shape() {
    let host = cpu();
    let keys = |report: &ProbeReport| report.facts.iter().map(|f| f.id).collect::<Vec<_>>();
    let mut unique = keys(&host);
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), host.facts.len(), "keys are unique");
    for report in reports().iter().map(|(_, report)| report).chain([&host]) {
        assert_eq!(keys(report), keys(&host));
        let table = report.to_string();
        assert!(report.facts.iter().all(|f| table.contains(f.what)), "{table}");
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(report).expect("JSON")).expect("JSON");
        assert_eq!(json["facts"].as_array().map(Vec::len), Some(report.facts.len()));
        assert!(["ok", "beware"].contains(&json["facts"][0]["verdict"].as_str().expect("a verdict")));
        // No NaN or infinity may become null.
        assert!(
            json["facts"]
                .as_array()
                .expect("facts")
                .iter()
                .all(|f| !f["value"].is_null()),
            "{json}"
        );
    }
}

#[test]
fn a_second_probe_says_the_same() {
    for (gpu, first) in reports() {
        let second = pollster::block_on(gpu.probe_async()).expect("the probe runs");
        // As text, since NaN differs from itself.
        assert_eq!(second.to_string(), first.to_string());
    }
}

#[test]
fn a_device_without_features_is_probed_too() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    for adapter in pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all())) {
        if !adapter
            .get_downlevel_capabilities()
            .flags
            .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        {
            continue;
        }
        let descriptor = wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits::downlevel_defaults(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a plain device");
        let report = Gpu::borrow(&device, &queue).probe().expect("the probe runs");
        assert!(is_missing(&report, "subgroup_size") && is_missing(&report, "native_ties"));
        assert_eq!(verdict(&report, "m_exp"), Verdict::Ok);
    }
}
