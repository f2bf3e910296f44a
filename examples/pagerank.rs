//! Personalised PageRank of a web graph: sixteen surfers at once, one sparse product with sixteen columns a step.
//!
//!     cargo run --release --features gz --example pagerank [-- LINKS.mtx[.gz]]
//!
//! An entry (i, j) of the file is a link from page i to page j; values do not count. Without a file it makes up a graph.
//!
//! A surfer follows a link of the page with probability d = 0.85, and else starts again at a page drawn from its own distribution v:
//! x = d P^T x + v, P = the links with rows that sum to 1 (Page, Brin, Motwani and Winograd, 1999). On a page without links a surfer
//! starts again too, which only scales x, so x is divided by its sum at the end. The same recurrence spreads the features of a graph
//! network over its edges (APPNP: Gasteiger, Bojchevski and Günnemann, 2019).

use macheps::ops::spmv::{cpu, cpu::Scale};
use macheps::sparse::{Coo, Narrowing, matrix_market};
use macheps::{BufferView, Context, Csr, DType, Gpu, Spmv, SpmvOptions, wgpu};
use std::error::Error;
use std::time::Instant;

/// Probability that a link is followed.
pub const DAMPING: f64 = 0.85;
/// Surfers: the columns of x.
pub const SURFERS: usize = 16;

/// P: every page's links, alike in probability.
pub fn transition(links: &Csr<f64>) -> macheps::Result<Csr<f64>> {
    let mut values = Vec::with_capacity(links.entries());
    for page in 0..links.rows() {
        let count = links.row(page).0.len();
        values.extend(std::iter::repeat_n(1.0 / count as f64, count));
    }
    links.with_values(values)
}

/// The pages that most links lead to, most first; pages without links of their own, where nothing spreads, do not count.
pub fn most_linked(links: &Csr<f64>, count: usize) -> Vec<usize> {
    let mut degree = vec![0u32; links.cols()];
    links.columns().iter().for_each(|&j| degree[j as usize] += 1);
    let mut pages: Vec<usize> = (0..links.rows()).filter(|&i| !links.row(i).0.is_empty()).collect();
    pages.sort_by_key(|&j| (std::cmp::Reverse(degree[j]), j));
    pages.truncate(count);
    pages
}

/// v, page by page: the first surfer starts anywhere, each other one at a page of its own.
pub fn starts(pages: usize, own: &[usize]) -> Vec<f32> {
    let surfers = 1 + own.len();
    let mut v = vec![0.0; pages * surfers];
    for page in 0..pages {
        v[page * surfers] = 1.0 / pages as f32;
    }
    for (i, &page) in own.iter().enumerate() {
        v[page * surfers + 1 + i] = 1.0;
    }
    v
}

/// Steps after which what is left of the series, d^(t + 1) / (1 - d), is below `rest`: known before the first, so nobody has to look.
pub fn steps_to(rest: f64) -> usize {
    ((rest * (1.0 - DAMPING)).ln() / DAMPING.ln()).ceil() as usize
}

/// Bound on what rounding does to a column, in the 1-norm and as a part of the column's own. One step is off by the bound of the
/// sparse product, plus a unit for P's rounded entries; later steps shrink that by d each.
pub fn rounding_bound(p: &Csr<f64>) -> f64 {
    let mut longest = vec![0u32; p.cols()];
    p.columns().iter().for_each(|&j| longest[j as usize] += 1);
    let longest = longest.into_iter().max().unwrap_or(0).max(2);
    (f64::from(longest).log2() + 6.0 + 5.0) * macheps::accuracy::U / (1.0 - DAMPING)
}

/// x after some steps in f32 on a device: recorded as one command buffer, submitted once, read once.
pub fn ranks_on(gpu: &Gpu, p: &Csr<f64>, v: &[f32], steps: usize) -> Result<Vec<f32>, Box<dyn Error>> {
    let surfers = v.len() / p.rows().max(1);
    // The plan goes by the lengths of the rows of P^T: a few pages are linked to by thousands.
    let options = SpmvOptions {
        transpose: true,
        ..Default::default()
    };
    let product = Spmv::new(gpu, &p.narrow::<f32>(Narrowing::Refuse)?.matrix, &options)?;

    let bytes = std::mem::size_of_val(v) as u64;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let start = gpu.upload("v", bytemuck::cast_slice(v))?;
    let x = [
        gpu.create_buffer("x", bytes, usage)?,
        gpu.create_buffer("next x", bytes, usage)?,
    ];
    let view = |buffer| BufferView::new(buffer, DType::F32, &[p.rows(), surfers]);
    // y = d P^T x + 1 y on a y that holds v: there and back.
    let there = product.bind(&view(&x[0]), &view(&x[1]), DAMPING as f32, 1.0)?;
    let back = product.bind(&view(&x[1]), &view(&x[0]), DAMPING as f32, 1.0)?;

    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&start, 0, &x[0], 0, bytes);
    for step in 0..steps {
        let (bound, y) = [(&there, &x[1]), (&back, &x[0])][step % 2];
        encoder.copy_buffer_to_buffer(&start, 0, y, 0, bytes);
        bound.record(&mut encoder);
    }
    let bytes = gpu.read_back(encoder, &x[steps % 2], bytes)?.wait()?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// The same in f64 on the host.
pub fn ranks_f64(p: &Csr<f64>, v: &[f32], steps: usize) -> macheps::Result<Vec<f64>> {
    let back = p.transpose()?;
    let v: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
    let (mut x, mut y) = (v.clone(), v.clone());
    for _ in 0..steps {
        let scale = Scale {
            alpha: DAMPING,
            old: Some((1.0, v.as_slice())),
        };
        cpu::spmm(&back, &x, v.len() / p.rows().max(1), scale, &mut y);
        std::mem::swap(&mut x, &mut y);
    }
    Ok(x)
}

/// Largest error of a column in the 1-norm, as a part of the column's own.
pub fn largest_error(x: &[f32], want: &[f64], surfers: usize) -> f64 {
    let mut sums = vec![(0.0, 0.0); surfers];
    for (i, (&x, &want)) in x.iter().zip(want).enumerate() {
        sums[i % surfers].0 += (f64::from(x) - want).abs();
        sums[i % surfers].1 += want.abs();
    }
    sums.iter().map(|(error, norm)| error / norm).fold(0.0, f64::max)
}

/// Page i links to i / 2, i / 3 and i / 7; every fifth one links nowhere.
fn made_up(pages: usize) -> macheps::Result<Csr<f64>> {
    let mut links = Coo::new(pages, pages)?;
    for page in (1..pages).filter(|page| page % 5 != 0) {
        for divisor in [2, 3, 7] {
            links.push(page, page / divisor, 1.0)?;
        }
    }
    links.to_csr()
}

fn main() -> Result<(), Box<dyn Error>> {
    let links = match std::env::args().nth(1) {
        Some(path) => matrix_market::read_file(path)?.to_csr()?,
        None => made_up(20_000)?,
    };
    if links.rows() != links.cols() || links.rows() < SURFERS {
        return Err(format!(
            "a graph of at least {SURFERS} pages is a square matrix; this one is {} x {}",
            links.rows(),
            links.cols()
        )
        .into());
    }
    let nowhere = (0..links.rows()).filter(|&i| links.row(i).0.is_empty()).count();
    println!(
        "{} pages, {} links; {nowhere} pages link nowhere",
        links.rows(),
        links.entries()
    );

    let own = most_linked(&links, SURFERS - 1);
    if own.len() < SURFERS - 1 {
        return Err(format!("only {} pages have links; it takes {}", own.len(), SURFERS - 1).into());
    }
    let (p, v) = (transition(&links)?, starts(links.rows(), &own));
    let rest = 1e-7;
    let steps = steps_to(rest);
    let want = ranks_f64(&p, &v, 2 * steps)?;

    let ctx = Context::new()?;
    println!("on {}, {SURFERS} surfers, {steps} steps", ctx.choice().device.label());
    match ctx.gpu() {
        Some(gpu) => {
            let begin = Instant::now();
            let x = ranks_on(gpu, &p, &v, steps)?;
            println!(
                "upload, plan, one submission and download: {:.2} s",
                begin.elapsed().as_secs_f64()
            );
            println!(
                "off by {:.1e} of the f64 ranks (1-norm, worst of all surfers); the bound is {:.1e}",
                largest_error(&x, &want, SURFERS),
                rest + rounding_bound(&p)
            );
        }
        None => println!("there is no GPU here: these are the f64 ranks of the CPU path"),
    }

    for (surfer, place) in [(0, "anywhere".to_string()), (1, format!("at page {}", own[0]))] {
        let column = |page: usize| want[page * SURFERS + surfer];
        let sum: f64 = (0..links.rows()).map(column).sum();
        let mut pages: Vec<usize> = (0..links.rows()).collect();
        pages.sort_by(|&a, &b| column(b).total_cmp(&column(a)));
        println!("a surfer that starts {place} is most often at");
        for &page in pages[..5].iter().filter(|&&page| column(page) > 0.0) {
            println!("  page {page:<8} {:.5}", column(page) / sum);
        }
    }
    Ok(())
}
