//! `macheps audit`.

use serde::Serialize;

use macheps::ops::audit::{LossScale, TensorAudit};
use macheps::{DType, Element, bf16, f16};

use crate::args::AuditArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::report::{Document, is_stdout};
use crate::source::Source;
use crate::source::safe::Mapped;
use crate::tensor::{Stored, Tensor};
use crate::{destination, histogram, table};

/// Values handed to the library at a time.
const CHUNK: usize = 1 << 24;

/// Shares of the nonzero values for which a loss scale is named.
const SHARES: [f64; 2] = [0.99, 1.0];

/// A tensor and what it holds.
#[derive(Serialize)]
pub struct Entry {
    /// Where it comes from, as `SRC`.
    pub source: String,
    /// Type of the elements in the file.
    pub stored: &'static str,
    pub shape: Vec<usize>,
    #[serde(flatten)]
    pub audit: TensorAudit,
    pub min_magnitude: Option<f64>,
    pub max_magnitude: Option<f64>,
    pub loss_scales: Vec<Scale>,
}

/// A loss scale and the share that it is meant to lift.
#[derive(Serialize)]
pub struct Scale {
    pub share: f64,
    #[serde(flatten)]
    pub scale: LossScale,
}

#[derive(Serialize)]
struct Body<'a> {
    tensors: &'a [Entry],
    /// Tensors of types that are not floats.
    skipped: &'a [String],
    /// Place of the first tensor with a NaN or an infinity.
    first_bad_tensor: Option<usize>,
    /// All tensors together.
    total: Entry,
    lowest_exponent: i32,
}

impl Entry {
    fn new(source: String, stored: Stored, shape: Vec<usize>, audit: TensorAudit) -> Outcome<Entry> {
        let mut loss_scales = Vec::new();
        for share in SHARES {
            loss_scales.extend(audit.loss_scale(share)?.map(|scale| Scale { share, scale }));
        }
        Ok(Entry {
            source,
            stored: stored.name(),
            shape,
            min_magnitude: audit.min_magnitude().map(f64::from),
            max_magnitude: audit.max_magnitude().map(f64::from),
            loss_scales,
            audit,
        })
    }
}

pub fn run(args: &AuditArgs) -> Outcome {
    let json = args.json.json.as_deref();
    let sources = args
        .sources
        .iter()
        .map(|text| Ok((text.as_str(), Source::parse(text)?)))
        .collect::<Outcome<Vec<_>>>()?;
    let inputs: Vec<_> = sources.iter().map(|(text, source)| (*text, source.path())).collect();
    destination::check_reports(&inputs, &[("--json", json), ("--svg", args.svg.as_deref())])?;
    let device = Device::open(&args.device.device)?;
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    for (text, source) in &sources {
        match source.safetensors() {
            Some((path, name)) => {
                let file = Mapped::open(path).map_err(|problem| Failure::file(path, problem))?;
                of_file(
                    &device,
                    &file,
                    &path.display().to_string(),
                    name,
                    &mut entries,
                    &mut skipped,
                )?;
            }
            None => {
                let tensor = source.read()?;
                if is_float(tensor.stored) {
                    entries.push(of_tensor(&device, text, &tensor)?);
                } else {
                    skipped.push(format!("{text} ({})", tensor.stored.name()));
                }
            }
        }
    }
    for name in &skipped {
        output::remark(&format!("{name} is skipped: not of floats"));
    }
    let mut all = TensorAudit::empty(DType::F32);
    for entry in &entries {
        all.append(&entry.audit);
    }
    // The index among all values together says nothing.
    all.first_bad = None;
    let total = Entry::new("all".to_string(), Stored::F32, vec![all.elements as usize], all)?;
    let first_bad_tensor = entries.iter().position(|e| e.audit.bad() > 0);
    if !json.is_some_and(is_stdout) {
        output::print(&text(&device, &entries, &total))?;
    }
    if let Some(path) = &args.svg {
        destination::write_text(path, &histogram::draw(device.adapter(), &entries, &total))?;
    }
    let body = Body {
        tensors: &entries,
        skipped: &skipped,
        first_bad_tensor,
        total,
        lowest_exponent: macheps::ops::audit::LOWEST_EXPONENT,
    };
    if let Some(path) = json {
        Document::new("audit", device.adapter(), body).write(path)?;
    }
    match first_bad_tensor {
        None => Ok(()),
        Some(first) => {
            let bad = entries.iter().filter(|e| e.audit.bad() > 0).count();
            let entry = &entries[first];
            let at = entry
                .audit
                .first_bad
                .map_or(String::new(), |i| format!(" from element {i} on"));
            Err(Failure::Check(format!(
                "audit: {bad} of {} tensors hold NaN or infinities; the first is {}{at}",
                entries.len(),
                entry.source
            )))
        }
    }
}

fn is_float(stored: Stored) -> bool {
    matches!(stored, Stored::F16 | Stored::Bf16 | Stored::F32 | Stored::F64)
}

/// Every tensor of a mapped file, or the one named, in the file's order.
fn of_file(
    device: &Device,
    file: &Mapped,
    path: &str,
    name: Option<&str>,
    entries: &mut Vec<Entry>,
    skipped: &mut Vec<String>,
) -> Outcome {
    let tensors: Vec<_> = file
        .tensors()
        .filter(|t| name.is_none_or(|name| t.name == name))
        .collect();
    if let (Some(name), true) = (name, tensors.is_empty()) {
        let mut all: Vec<String> = file.tensors().map(|t| t.name).collect();
        all.sort();
        return Err(Failure::usage(format!(
            "{path}: no tensor named '{name}'; there is {}",
            all.join(", ")
        )));
    }
    let bar = output::progress_bytes(tensors.iter().map(|t| t.bytes.len() as u64).sum());
    for tensor in tensors {
        let source = format!("{path}#{}", tensor.name);
        bar.set_message(tensor.name.clone());
        let Some(stored) = tensor.stored.filter(|&stored| is_float(stored)) else {
            skipped.push(format!("{source} ({})", tensor.type_name));
            bar.inc(tensor.bytes.len() as u64);
            continue;
        };
        let progress = |bytes: usize| bar.inc(bytes as u64);
        let audit = match stored {
            Stored::F16 => of_bytes::<f16>(device, tensor.bytes, progress)?,
            Stored::Bf16 => of_bytes::<bf16>(device, tensor.bytes, progress)?,
            Stored::F64 => of_f64(device, &source, tensor.bytes, progress)?,
            _ => of_bytes::<f32>(device, tensor.bytes, progress)?,
        };
        entries.push(Entry::new(source, stored, tensor.shape, audit)?);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Little-endian elements at any alignment, a chunk at a time.
fn of_bytes<T: Element>(device: &Device, bytes: &[u8], progress: impl Fn(usize)) -> Outcome<TensorAudit> {
    let mut all = TensorAudit::empty(T::DTYPE);
    for chunk in bytes.chunks(CHUNK * size_of::<T>()) {
        let audit = match bytemuck::try_cast_slice::<u8, T>(chunk) {
            Ok(values) if cfg!(target_endian = "little") => device.audit(values)?,
            _ => {
                let values: Vec<T> = chunk
                    .chunks_exact(size_of::<T>())
                    .map(|element| {
                        let mut value = T::default();
                        bytemuck::bytes_of_mut(&mut value).copy_from_slice(element);
                        if cfg!(target_endian = "big") {
                            bytemuck::bytes_of_mut(&mut value).reverse();
                        }
                        value
                    })
                    .collect();
                device.audit(&values)?
            }
        };
        all.append(&audit);
        progress(chunk.len());
    }
    Ok(all)
}

/// Elements of f64, audited as f32; says so. No value changes its class: what f32 cannot hold counts as its largest number or as its
/// smallest, so that only what is zero, infinite or NaN in the file is reported as such.
fn of_f64(device: &Device, source: &str, bytes: &[u8], progress: impl Fn(usize)) -> Outcome<TensorAudit> {
    let mut all = TensorAudit::empty(DType::F32);
    let (mut beyond, mut below) = (0usize, 0usize);
    for chunk in bytes.chunks(CHUNK * 8) {
        let values: Vec<f32> = chunk
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&element| {
                let value = f64::from_le_bytes(element);
                let narrow = value as f32;
                if value.is_finite() && narrow.is_infinite() {
                    beyond += 1;
                    f32::MAX.copysign(narrow)
                } else if value != 0.0 && narrow == 0.0 {
                    below += 1;
                    f32::from_bits(1).copysign(narrow)
                } else {
                    narrow
                }
            })
            .collect();
        all.append(&device.audit(&values)?);
        progress(chunk.len());
    }
    let mut lost = String::new();
    if beyond > 0 {
        lost += &format!(", {beyond} values beyond its range as its largest number");
    }
    if below > 0 {
        lost += &format!(", {below} below it as its smallest");
    }
    output::remark(&format!("{source}: f64 is audited as f32{lost}"));
    Ok(all)
}

fn of_tensor(device: &Device, source: &str, tensor: &Tensor) -> Outcome<Entry> {
    let bytes = tensor.bytes();
    let audit = match tensor.stored {
        Stored::F16 => of_bytes::<f16>(device, bytes, drop)?,
        Stored::Bf16 => of_bytes::<bf16>(device, bytes, drop)?,
        Stored::F64 => of_f64(device, source, bytes, drop)?,
        _ => of_bytes::<f32>(device, bytes, drop)?,
    };
    Entry::new(source.to_string(), tensor.stored, tensor.shape.clone(), audit)
}

/// The table, and what it means for training in 16 bits.
fn text(device: &Device, entries: &[Entry], total: &Entry) -> String {
    let columns = [
        ("tensor", false),
        ("dtype", false),
        ("shape", false),
        ("NaN", true),
        ("inf", true),
        ("zeros", true),
        ("subnormal", true),
        ("min |x|", true),
        ("max |x|", true),
        ("f16 inf", true),
        ("f16 zero", true),
        ("f16 subn.", true),
        ("bf16 inf", true),
        ("bf16 zero", true),
        ("scale", true),
    ];
    let row = |entry: &Entry| {
        let audit = &entry.audit;
        let magnitude = |v: Option<f64>| v.map_or("-".to_string(), table::short);
        let share = |n: u64| match n {
            0 => "0".to_string(),
            n => format!("{n} ({})", table::percent(n as f64 / audit.elements as f64)),
        };
        vec![
            entry.source.clone(),
            entry.stored.to_string(),
            format!("{:?}", entry.shape),
            audit.nans.to_string(),
            (audit.positive_infinities + audit.negative_infinities).to_string(),
            share(audit.zeros),
            share(audit.subnormals),
            magnitude(entry.min_magnitude),
            magnitude(entry.max_magnitude),
            share(audit.f16.overflows),
            share(audit.f16.vanishes),
            share(audit.f16.subnormals),
            share(audit.bf16.overflows),
            share(audit.bf16.vanishes),
            entry
                .loss_scales
                .first()
                .map_or("-".to_string(), |s| format!("2^{}", s.scale.exponent)),
        ]
    };
    let mut rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    if entries.len() > 1 {
        let mut all = row(total);
        (all[1], all[2]) = (String::new(), format!("[{}]", total.audit.elements));
        rows.push(all);
    }
    let mut text = format!("Audited on {}:\n{}", device.adapter(), table::table(&columns, rows));
    for Scale { share, scale } in &total.loss_scales {
        if scale.exponent == 0 {
            text += &format!(
                "\nWithout a loss scale {} % of all values that are not zero are f16's smallest, 2^-24, or above ({} % are asked for).",
                percent(scale.share_before),
                percent(*share)
            );
            continue;
        }
        text += &format!(
            "\nA loss scale of 2^{} lifts {} % of all values that are not zero to f16's smallest, 2^-24, or above ({} % without)",
            scale.exponent,
            percent(*share),
            percent(scale.share_before)
        );
        if scale.overflows > 0 {
            text += &format!(", but takes {} beyond 2^16", scale.overflows);
        }
        text.push('.');
    }
    text
}

/// A share in percent, never rounded up to all.
fn percent(share: f64) -> String {
    let text = format!("{:.2}", (share * 1e4).floor() / 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_not_rounded_up() {
        assert_eq!([1.0, 0.99999, 0.5, 0.0].map(percent), ["100", "99.99", "50", "0"]);
    }
}
