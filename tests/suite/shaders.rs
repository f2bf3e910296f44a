//! Every shader of the crate, in every variant, is valid WGSL by naga, asks for no capability that it does not use, and can
//! be said in the languages that wgpu's backends speak. Needs no device.

use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const BITS: &str = include_str!("../../shaders/lib/bits.wgsl");
const ERROR_FREE: &str = include_str!("../../shaders/lib/error_free.wgsl");
const ELEMENTARY: &str = include_str!("../../shaders/lib/elementary.wgsl");
const ROUND16: &str = include_str!("../../shaders/lib/round16.wgsl");
const SOFTMAX: &str = include_str!("../../shaders/softmax.wgsl");
const SPLIT: &str = include_str!("../../shaders/softmax_split.wgsl");
const COPY: &str = include_str!("../../shaders/copy.wgsl");

fn uses_subgroups(source: &str) -> bool {
    source.contains("subgroupShuffleXor(") || source.contains("subgroupBroadcastFirst(")
}

fn uses_f16(source: &str) -> bool {
    source.contains("enable f16;")
}

/// Parses and validates with the capabilities that the source's own words announce.
fn validate(source: &str) -> Result<(naga::Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let mut allowed = Capabilities::empty();
    allowed.set(Capabilities::SUBGROUP, uses_subgroups(source));
    allowed.set(Capabilities::SHADER_FLOAT16, uses_f16(source));
    // What pack2x16float and unpack2x16float ask for, which only the probe uses.
    allowed.set(
        Capabilities::SHADER_FLOAT16_IN_FLOAT32,
        source.contains("pack2x16float("),
    );
    let info = Validator::new(ValidationFlags::all(), allowed)
        .validate(&module)
        .map_err(|e| e.emit_to_string(source))?;
    Ok((module, info))
}

/// How many entry points were said in each language, and how many that language has no words for.
#[derive(Default)]
struct Tally {
    said: BTreeMap<&'static str, usize>,
    inexpressible: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn merge(&mut self, other: Tally) {
        for (language, n) in other.said {
            *self.said.entry(language).or_default() += n;
        }
        for (language, n) in other.inexpressible {
            *self.inexpressible.entry(language).or_default() += n;
        }
    }
}

fn to_spirv(module: &naga::Module, info: &ModuleInfo, entry: &str) -> Result<usize, String> {
    let options = spv::Options {
        // Subgroups came with 1.3.
        lang_version: (1, 3),
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: entry.into(),
    };
    spv::write_vec(module, info, &options, Some(&pipeline))
        .map(|words| words.len())
        .map_err(|e| e.to_string())
}

fn to_msl(module: &naga::Module, info: &ModuleInfo, entry: &str) -> Result<usize, String> {
    let options = msl::Options {
        lang_version: (2, 4),
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, entry.into())),
        ..Default::default()
    };
    let (text, translated) = msl::write_string(module, info, &options, &pipeline).map_err(|e| e.to_string())?;
    for name in translated.entry_point_names {
        name.map_err(|e| e.to_string())?;
    }
    Ok(text.len())
}

fn to_hlsl(module: &naga::Module, info: &ModuleInfo, entry: &str, modern: bool) -> Result<usize, String> {
    let options = hlsl::Options {
        // 5.1 is what the compiler takes that every Windows has; wave operations and 16-bit types need 6.2.
        shader_model: if modern {
            hlsl::ShaderModel::V6_2
        } else {
            hlsl::ShaderModel::V5_1
        },
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, entry.into())),
    };
    let mut text = String::new();
    let translated = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| e.to_string())?;
    for name in translated.entry_point_names {
        name.map_err(|e| e.to_string())?;
    }
    Ok(text.len())
}

fn to_glsl(module: &naga::Module, info: &ModuleInfo, entry: &str) -> Result<usize, String> {
    let options = glsl::Options {
        version: glsl::Version::new_gles(310),
        ..Default::default()
    };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: entry.into(),
        multiview: None,
    };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
        .map_err(|e| e.to_string())?
        .write()
        .map_err(|e| e.to_string())?;
    Ok(text.len())
}

/// Validates a source and says each of its entry points in all four languages.
fn translate(name: &str, source: &str) -> Result<Tally, String> {
    let fail = |language: &str, entry: &str, e: String| format!("{name}, {entry} in {language}: {e}");
    let (module, info) = validate(source).map_err(|e| fail("WGSL", "", e))?;
    let mut tally = Tally::default();
    for entry in module.entry_points.iter().map(|e| e.name.as_str()) {
        let modern = uses_subgroups(source) || uses_f16(source);
        let translations = [
            ("SPIR-V", to_spirv(&module, &info, entry)),
            ("MSL", to_msl(&module, &info, entry)),
            ("HLSL", to_hlsl(&module, &info, entry, modern)),
        ];
        for (language, outcome) in translations {
            let length = outcome.map_err(|e| fail(language, entry, e))?;
            assert!(length > 0, "{name}, {entry}: nothing said in {language}");
            *tally.said.entry(language).or_default() += 1;
        }
        // GLSL ES has no 16-bit floats; devices that speak it are given the packed form.
        match (uses_f16(source), to_glsl(&module, &info, entry)) {
            // An entry point that touches no 16-bit float can be said all the same.
            (_, Ok(_)) => *tally.said.entry("GLSL").or_default() += 1,
            (true, Err(_)) => *tally.inexpressible.entry("GLSL").or_default() += 1,
            (false, Err(e)) => return Err(fail("GLSL", entry, e)),
        }
    }
    Ok(tally)
}

fn translate_all(sources: &[(String, String)]) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
    let part = sources.len().div_ceil(threads).max(1);
    let outcomes: Vec<Result<Tally, String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = sources
            .chunks(part)
            .map(|part| {
                scope.spawn(move || {
                    part.iter()
                        .map(|(name, source)| translate(name, source))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().expect("a translating thread panicked"))
            .collect()
    });
    let mut total = Tally::default();
    let mut bad = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(tally) => total.merge(tally),
            Err(e) => bad.push(e),
        }
    }
    assert!(
        bad.is_empty(),
        "{} of {} sources fail; the first: {}",
        bad.len(),
        sources.len(),
        bad[0]
    );
    total
}

/// Every variant of every shader of operations and solvers.
fn variants() -> Vec<(String, String)> {
    let mut variants = macheps::ops::shader_variants();
    variants.extend(macheps::solve::shader_variants());
    variants
}

#[test]
fn all_variants_translate() {
    let variants = variants();
    assert!(variants.len() > 1000, "{} variants", variants.len());
    let tally = translate_all(&variants);
    eprintln!(
        "{} variants; entry points said: {:?}; inexpressible: {:?}",
        variants.len(),
        tally.said,
        tally.inexpressible
    );
    // Only the native f16 form is beyond GLSL ES.
    let native = variants.iter().filter(|(_, source)| uses_f16(source));
    let entries: usize = native.map(|(_, source)| source.matches("@compute").count()).sum();
    let inexpressible = tally.inexpressible.get("GLSL").copied().unwrap_or(0);
    assert!(inexpressible > 0 && inexpressible <= entries);
    assert_eq!(tally.said["SPIR-V"], tally.said["GLSL"] + inexpressible);
}

/// The shaders of the probe and of the copy, and the library of functions.
fn others() -> Vec<(String, String)> {
    // Functions that no entry point calls would not be translated, so one calls them all.
    let library = format!(
        "{BITS}{ERROR_FREE}{ELEMENTARY}{ROUND16}
@group(0) @binding(0) var<storage, read_write> data: array<u32>;
@compute @workgroup_size(64)
fn all_of_it(@builtin(global_invocation_id) id: vec3<u32>) {{
    let zero = data[0];
    let x = bitcast<f32>(data[1u + id.x]);
    let y = bitcast<f32>(data[2u + id.x]);
    var r = m_exp(x, zero) + m_expm1(x, zero) + m_log(x, zero) + m_log1p(x, zero) + m_tanh(x, zero);
    r += m_sigmoid(x, zero) + m_div(x, y, zero);
    let v = unpack_f16(pack_f16(vec2<f32>(x, r))) + unpack_bf16(pack_bf16(vec2<f32>(y, r)));
    let s = pair_merge(pair_add(two_sum(x, y, zero), v.x, zero), kahan_add(two_product(x, v.y, zero), y, zero), zero);
    var four = pair_add4(two_sum4(vec4<f32>(x), vec4<f32>(y), zero), vec4<f32>(v.x), zero);
    four = pair_merge4(four, two_product4(four.high, four.low, zero), zero);
    four = kahan_add4(fast_two_sum4(four.high, four.low, zero), four.high, zero);
    data[id.x] = ordered(s.x + s.y) ^ bitcast<u32>(four.high.x + four.low.y) ^ unordered_bits(ordered4(four.high).z);
}}
"
    );
    let probe = [BITS, ERROR_FREE, ELEMENTARY, include_str!("../../shaders/probe.wgsl")].concat();
    [
        ("library", library.as_str()),
        ("probe", probe.as_str()),
        ("probe_f16", include_str!("../../shaders/probe_f16.wgsl")),
        ("probe_subgroup", include_str!("../../shaders/probe_subgroup.wgsl")),
        ("copy", COPY),
    ]
    .map(|(name, source)| (name.to_string(), source.to_string()))
    .to_vec()
}

#[test]
fn other_shaders_translate() {
    let tally = translate_all(&others());
    assert_eq!(
        tally.inexpressible.get("GLSL"),
        Some(&2),
        "only probe_f16 is beyond GLSL"
    );
}

/// The names of all sources differ, so that each can be a file: they are written into the folder that `MACHEPS_SHADERS_TO`
/// names, for compilers other than naga to judge (`scripts/dawn-check.sh`).
#[test]
fn sources_have_names_of_their_own() {
    let sources = [variants(), others()].concat();
    let mut names = BTreeSet::new();
    let twice: Vec<&str> = sources
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !names.insert(*name))
        .collect();
    assert!(twice.is_empty(), "more than one source is called {twice:?}");
    if let Some(folder) = std::env::var_os("MACHEPS_SHADERS_TO").map(PathBuf::from) {
        for (name, source) in &sources {
            std::fs::write(folder.join(format!("{name}.wgsl")), source).expect("the folder can be written to");
        }
    }
}

/// Bindings that the comment at a shader's head lists after `Bindings:`, by number.
fn documented(source: &str) -> BTreeMap<u32, String> {
    let head: String = source
        .lines()
        .take_while(|l| l.starts_with("//"))
        .map(|l| format!("{} ", l.trim_start_matches('/').trim()))
        .collect();
    let list = head.split("Bindings: ").nth(1).expect("a head with bindings");
    list.split('.')
        .next()
        .unwrap_or_default()
        .split(',')
        .map(|item| {
            let (number, name) = item.trim().split_once(' ').expect("a number and a name");
            (number.parse().expect("a number"), name.to_string())
        })
        .collect()
}

/// Bindings that a module declares.
fn declared(module: &naga::Module) -> BTreeMap<u32, String> {
    module
        .global_variables
        .iter()
        .filter_map(|(_, v)| {
            let at = v.binding?;
            assert_eq!(at.group, 0);
            let name = v.name.clone().unwrap_or_default();
            Some((at.binding, name.trim_end_matches("_data").to_string()))
        })
        .collect()
}

/// Names and byte offsets of the members of a struct, and its size.
fn layout(module: &naga::Module, name: &str) -> (Vec<(String, u32)>, u32) {
    let (_, ty) = module
        .types
        .iter()
        .find(|(_, t)| t.name.as_deref() == Some(name))
        .expect("the struct is declared");
    match &ty.inner {
        naga::TypeInner::Struct { members, span } => (
            members
                .iter()
                .map(|m| (m.name.clone().unwrap_or_default(), m.offset))
                .collect(),
            *span,
        ),
        other => panic!("{name} is {other:?}"),
    }
}

/// The host's `Params`, read off its declaration: `repr(C)`, words and arrays of four words.
fn host_params(source: &str) -> (Vec<(String, u32)>, u32) {
    let body = source
        .split("struct Params {\n")
        .nth(1)
        .and_then(|rest| rest.split("\n}").next())
        .expect("the declaration of Params");
    let mut offset = 0;
    let mut fields = Vec::new();
    for line in body.lines() {
        let (name, ty) = line.trim().trim_end_matches(',').split_once(": ").expect("a field");
        fields.push((name.to_string(), offset));
        offset += match ty {
            "[u32; 4]" => 16,
            "u32" | "i32" | "f32" => 4,
            other => panic!("{name}: {other} is not known here"),
        };
    }
    (fields, offset)
}

#[test]
fn parameters_and_bindings_are_as_declared() {
    let host = host_params(include_str!("../../src/ops/softmax/kernels.rs"));
    let (plain, split) = (documented(SOFTMAX), documented(SPLIT));
    for (name, source) in macheps::ops::softmax::shader_variants() {
        // Layouts and bindings do not depend on widths: one of each eight will do.
        if !name.ends_with("_1") {
            continue;
        }
        let (module, _) = validate(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(layout(&module, "Params"), host, "{name}");
        let documented = if name.contains("_split_") { &split } else { &plain };
        for (number, variable) in declared(&module) {
            assert_eq!(documented.get(&number), Some(&variable), "{name}: binding {number}");
        }
        if name.contains("_split_") {
            // The host counts on it when it sizes the workspace.
            assert_eq!((layout(&module, "Partial").1, layout(&module, "Merged").1), (32, 32));
        }
    }
    assert_eq!(host.1 % 16, 0, "a uniform buffer is made of whole vectors");
    let host = host_params(include_str!("../../src/ops/cross_entropy/kernels.rs"));
    for (name, source) in macheps::ops::cross_entropy::shader_variants() {
        let (module, _) = validate(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(layout(&module, "Params"), host, "{name}");
        let split = name.contains("_split_");
        let documented = documented(match () {
            () if split => include_str!("../../shaders/cross_entropy_split.wgsl"),
            () if name.contains("_reduce_") => include_str!("../../shaders/cross_entropy_reduce.wgsl"),
            () => include_str!("../../shaders/cross_entropy.wgsl"),
        });
        for (number, variable) in declared(&module) {
            assert_eq!(documented.get(&number), Some(&variable), "{name}: binding {number}");
        }
        if split {
            assert_eq!((layout(&module, "Partial").1, layout(&module, "Merged").1), (40, 40));
        }
    }
    assert_eq!(host.1 % 16, 0, "a uniform buffer is made of whole vectors");
    let (module, _) = validate(COPY).expect("valid");
    assert_eq!(declared(&module), documented(COPY));
}
