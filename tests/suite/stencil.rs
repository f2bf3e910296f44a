//! The grid stencil on the host: known spectra, symmetry, row sums, sides, solid cells, what is refused.

use macheps::solve::{Boundary, Coefficient, GridStencil, GridStencilOptions, LinearOperator, Reaction};
use macheps::{Csr, Error, random::Random};
use std::f64::consts::PI;

/// Options with everything in them: faces of their own, reaction and solid cells.
pub fn full(cells: [usize; 3], boundary: [[Boundary; 2]; 3], seed: u64) -> GridStencilOptions {
    let mut random = Random::new(seed);
    let mut options = GridStencilOptions::volume(cells[0], cells[1], cells[2]);
    let faces = [0, 1, 2].map(|axis| {
        let mut counts = cells;
        counts[axis] += 1;
        (0..counts.iter().product()).map(|_| 0.1 + random.unit()).collect()
    });
    let size = cells.iter().product();
    options.spacing = [0.5, 0.8, 1.25];
    options.boundary = boundary;
    options.coefficient = Coefficient::Faces(faces);
    options.reaction = Reaction::Cells((0..size).map(|_| random.unit()).collect());
    options.solid = Some((0..size).map(|_| random.unit() < 0.2).collect());
    options
}

/// One of each kind on the axes, by number.
pub fn sides(number: usize) -> [Boundary; 2] {
    use Boundary as B;
    [
        [B::Dirichlet, B::Neumann],
        [B::Periodic, B::Periodic],
        [B::DirichletCell, B::Dirichlet],
        [B::Neumann, B::Neumann],
    ][number % 4]
}

pub fn vector(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    // Exact in f32, so that a device sees the same numbers.
    (0..n).map(|_| f64::from(random.normal() as f32)).collect()
}

/// A x and |A| |x|, row by row.
pub fn product(a: &Csr<f64>, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    (0..a.rows())
        .map(|i| {
            let (columns, values) = a.row(i);
            let terms = columns.iter().zip(values).map(|(&j, v)| v * x[j as usize]);
            terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
        })
        .unzip()
}

fn every_kind() -> impl Iterator<Item = GridStencilOptions> {
    let shapes = [
        [7, 5, 3],
        [1, 4, 6],
        [6, 1, 2],
        [2, 2, 2],
        [5, 3, 1],
        [1, 1, 1],
        [9, 1, 1],
        [1, 1, 5],
    ];
    shapes.into_iter().enumerate().flat_map(|(s, cells)| {
        (0..16).map(move |b| full(cells, [sides(b), sides(b / 4), sides(b / 2 + s)], (s * 16 + b) as u64))
    })
}

#[test]
fn matrix_product_diagonal_and_norm_agree() {
    for options in every_kind() {
        let stencil = GridStencil::new(&options).unwrap();
        let a = stencil.to_csr().unwrap();
        let n = stencil.size();
        let symmetry = a.symmetry();
        assert!(symmetry.exact && symmetry.pattern, "{options:?}");
        assert_eq!(stencil.diagonal().unwrap(), a.diagonal());
        assert!((stencil.norm_inf().unwrap() - a.norm_inf()).abs() <= 1e-14 * a.norm_inf());
        let x = vector(n, 3);
        let mut y = vec![f64::NAN; n];
        stencil.apply(&x, &mut y);
        let (want, scale) = product(&a, &x);
        for i in 0..n {
            assert!((y[i] - want[i]).abs() <= 1e-14 * scale[i], "{i}: {options:?}");
        }
        // Solid rows are those of the identity, and nobody refers to them.
        for (i, _) in options.solid.iter().flatten().enumerate().filter(|(_, solid)| **solid) {
            assert_eq!(a.row(i), (&[i as u32][..], &[1.0][..]));
            assert!(a.iter().all(|(row, column, _)| row == i || column != i));
        }
    }
}

/// Lines whose cells have all their neighbours go another way: the same numbers.
#[test]
fn inner_lines_are_as_the_others() {
    for (number, cells) in [[9, 7, 5], [40, 1, 6], [70, 30, 1], [500, 1, 1], [3, 3, 3]]
        .into_iter()
        .enumerate()
    {
        for b in 0..16 {
            let mut options = full(cells, [sides(b), sides(b / 4), sides(b + number)], b as u64);
            options.solid = None;
            if b % 2 == 0 {
                options.coefficient = Coefficient::Constant(1.5);
            }
            let mut open = options.clone();
            open.solid = Some(vec![false; cells.iter().product()]);
            let [fast, slow] = [options, open].map(|options| {
                let stencil = GridStencil::new(&options).unwrap();
                let mut y = vec![f64::NAN; stencil.size()];
                stencil.apply(&vector(stencil.size(), 9), &mut y);
                y
            });
            assert_eq!(fast, slow, "{cells:?} {b}");
        }
    }
}

/// By hand: three cells in a row, and the faces of a small grid.
#[test]
fn small_matrices_by_hand() {
    let dense = |options: &GridStencilOptions| {
        let a = GridStencil::new(options).unwrap().to_csr().unwrap();
        a.to_dense().unwrap().into_values()
    };
    let mut options = GridStencilOptions::plane(3, 1);
    options.boundary[1] = [Boundary::Neumann; 2];
    options.spacing[0] = 0.5;
    assert_eq!(dense(&options), [12.0, -4.0, 0.0, -4.0, 8.0, -4.0, 0.0, -4.0, 12.0]);
    options.boundary[0] = [Boundary::DirichletCell, Boundary::Neumann];
    assert_eq!(dense(&options), [8.0, -4.0, 0.0, -4.0, 8.0, -4.0, 0.0, -4.0, 4.0]);
    options.boundary[0] = [Boundary::Periodic; 2];
    assert_eq!(dense(&options), [8.0, -4.0, -4.0, -4.0, 8.0, -4.0, -4.0, -4.0, 8.0]);
    // Harmonic means 3 and 3/2 within; the cell's own value at the side. Neumann sides do not count.
    options.boundary[0] = [Boundary::Dirichlet, Boundary::Neumann];
    options.spacing[0] = 1.0;
    options.coefficient = Coefficient::Cells(vec![3.0, 3.0, 1.0]);
    options.reaction = Reaction::Cells(vec![0.0, 10.0, 0.0]);
    let mean = 1.5;
    assert_eq!(
        dense(&options),
        [9.0, -3.0, 0.0, -3.0, 13.0 + mean, -mean, 0.0, -mean, mean]
    );
    // Means wrap where the axis is periodic, and 0 lets nothing through.
    options.boundary[0] = [Boundary::Periodic; 2];
    options.coefficient = Coefficient::Cells(vec![3.0, 0.0, 1.0]);
    assert_eq!(dense(&options), [mean, 0.0, -mean, 0.0, 10.0, 0.0, -mean, 0.0, mean]);
    // Two cells on a circle meet twice.
    let mut circle = GridStencilOptions::plane(2, 1);
    circle.boundary = [
        [Boundary::Periodic; 2],
        [Boundary::Periodic; 2],
        [Boundary::Periodic; 2],
    ];
    assert_eq!(dense(&circle), [2.0, -2.0, -2.0, 2.0]);
    // A solid cell closes its faces.
    let mut solid = GridStencilOptions::plane(3, 1);
    solid.boundary[1] = [Boundary::Neumann; 2];
    solid.solid = Some(vec![false, false, true]);
    assert_eq!(dense(&solid), [3.0, -1.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
}

/// Eigenvectors of one axis (sines, cosines) and their eigenvalues, for k = 1 and spacing h.
fn mode(boundary: Boundary, n: usize, j: usize, h: f64) -> (Vec<f64>, f64) {
    let count = n as f64;
    let (angle, shift, sine) = match boundary {
        Boundary::Dirichlet => (PI * (j + 1) as f64 / count, 0.5, true),
        Boundary::DirichletCell => (PI * (j + 1) as f64 / (count + 1.0), 1.0, true),
        Boundary::Neumann => (PI * j as f64 / count, 0.5, false),
        _ => (2.0 * PI * j as f64 / count, 0.0, false),
    };
    let values = (0..n)
        .map(|i| {
            let at = angle * (i as f64 + shift);
            if sine { at.sin() } else { at.cos() }
        })
        .collect();
    (values, 4.0 / (h * h) * (0.5 * angle).sin().powi(2))
}

#[test]
fn spectra_are_the_known_ones() {
    use Boundary as B;
    let kinds = [B::Dirichlet, B::DirichletCell, B::Neumann, B::Periodic];
    for (number, kind) in kinds.into_iter().enumerate() {
        let mut options = GridStencilOptions::volume(6, 5, 4);
        options.spacing = [0.25, 0.5, 1.0];
        options.reaction = Reaction::Constant(0.125);
        options.boundary = [[kind; 2], [kinds[(number + 1) % 4]; 2], [kinds[(number + 2) % 4]; 2]];
        let stencil = GridStencil::new(&options).unwrap();
        for (jx, jy, jz) in [(0, 0, 0), (5, 4, 3), (1, 2, 3), (3, 1, 0)] {
            let (x, a) = mode(options.boundary[0][0], 6, jx, 0.25);
            let (y, b) = mode(options.boundary[1][0], 5, jy, 0.5);
            let (z, c) = mode(options.boundary[2][0], 4, jz, 1.0);
            let lambda = a + b + c + 0.125;
            let v: Vec<f64> = (0..120).map(|i| x[i % 6] * y[i / 6 % 5] * z[i / 30]).collect();
            let mut av = vec![0.0; 120];
            stencil.apply(&v, &mut av);
            for i in 0..120 {
                assert!(
                    (av[i] - lambda * v[i]).abs() < 1e-11,
                    "{kind:?} {i}: {} {lambda} {}",
                    av[i],
                    v[i]
                );
            }
        }
    }
}

#[test]
fn constants_are_mapped_to_nothing_without_dirichlet_sides() {
    let mut options = full([6, 5, 4], [sides(3), sides(1), sides(3)], 1);
    options.reaction = Reaction::Constant(0.0);
    let stencil = GridStencil::new(&options).unwrap();
    let mut y = vec![1.0; 120];
    stencil.apply(&[3.7; 120], &mut y);
    for (y, solid) in y.iter().zip(options.solid.iter().flatten()) {
        assert_eq!(*y, if *solid { 3.7 } else { 0.0 });
    }
}

#[test]
fn changes_are_seen_and_constants_stay() {
    let options = full([5, 4, 3], [sides(0), sides(1), sides(2)], 7);
    let other = full([5, 4, 3], [sides(0), sides(1), sides(2)], 8);
    let stencil = GridStencil::new(&options).unwrap();
    stencil.set_solid(other.solid.as_ref().unwrap()).unwrap();
    stencil.set_coefficient(&other.coefficient).unwrap();
    stencil.set_reaction(&other.reaction).unwrap();
    let want = GridStencil::new(&other).unwrap();
    assert_eq!(stencil.to_csr().unwrap(), want.to_csr().unwrap());
    for refused in [
        stencil.set_coefficient(&Coefficient::Constant(1.0)),
        stencil.set_reaction(&Reaction::Constant(1.0)),
        GridStencil::new(&GridStencilOptions::plane(2, 2))
            .unwrap()
            .set_solid(&[false; 4]),
    ] {
        assert!(matches!(refused, Err(Error::Option { .. })), "{refused:?}");
    }
    assert!(matches!(stencil.set_solid(&[true; 59]), Err(Error::Shape { .. })));
}

#[test]
fn boundary_values_make_the_right_hand_side() {
    // u = 2 x + 3 y + 5 at the centres, h = 1/4: exact for the stencil away from the corners' kinds.
    let (nx, ny, h) = (6usize, 4usize, 0.25);
    let mut options = GridStencilOptions::plane(nx, ny);
    options.spacing = [h, h, 1.0];
    options.boundary[0] = [Boundary::Dirichlet, Boundary::Neumann];
    options.boundary[1] = [Boundary::DirichletCell, Boundary::Dirichlet];
    let stencil = GridStencil::new(&options).unwrap();
    let u = |x: f64, y: f64| 2.0 * x + 3.0 * y + 5.0;
    let center = |i: usize| (i as f64 + 0.5) * h;
    let x: Vec<f64> = (0..nx * ny).map(|i| u(center(i % nx), center(i / nx))).collect();
    let (mut b, mut y) = (vec![0.0; nx * ny], vec![0.0; nx * ny]);
    stencil
        .add_boundary_values(0, false, &mut b, |[_, j, _]| u(0.0, center(j)))
        .unwrap();
    stencil.add_boundary_values(0, true, &mut b, |_| 2.0).unwrap();
    stencil
        .add_boundary_values(1, false, &mut b, |[i, ..]| u(center(i), -0.5 * h))
        .unwrap();
    stencil
        .add_boundary_values(1, true, &mut b, |[i, ..]| u(center(i), ny as f64 * h))
        .unwrap();
    stencil.apply(&x, &mut y);
    for i in 0..nx * ny {
        assert!((y[i] - b[i]).abs() < 1e-11, "{i}: {} {}", y[i], b[i]);
    }
    assert!(matches!(
        stencil.add_boundary_values(3, true, &mut b, |_| 0.0),
        Err(Error::Shape { .. })
    ));
    options.boundary[0] = [Boundary::Periodic; 2];
    let periodic = GridStencil::new(&options).unwrap();
    assert!(matches!(
        periodic.add_boundary_values(0, true, &mut b, |_| 0.0),
        Err(Error::Option { .. })
    ));
}

#[test]
fn what_is_no_grid_is_refused() {
    let new = |change: fn(&mut GridStencilOptions)| {
        let mut options = GridStencilOptions::volume(2, 3, 4);
        change(&mut options);
        GridStencil::new(&options).map(|_| ())
    };
    for (options, name) in [
        (new(|o| o.spacing[1] = 0.0), "spacing"),
        (new(|o| o.spacing[1] = f64::NAN), "spacing"),
        (new(|o| o.spacing[2] = 1e-30), "spacing"),
        (new(|o| o.boundary[0][1] = Boundary::Periodic), "boundary"),
        (new(|o| o.coefficient = Coefficient::Constant(-1.0)), "coefficient"),
        (
            new(|o| o.coefficient = Coefficient::Cells(vec![f64::NAN; 24])),
            "coefficient",
        ),
        (
            new(|o| o.coefficient = Coefficient::Cells(vec![1e300; 24])),
            "coefficient",
        ),
        (new(|o| o.reaction = Reaction::Constant(f64::INFINITY)), "reaction"),
    ] {
        match options {
            Err(Error::Option { name: got, .. }) => assert_eq!(got, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    for refused in [
        new(|o| o.coefficient = Coefficient::Cells(vec![1.0; 23])),
        new(|o| o.coefficient = Coefficient::Faces([vec![1.0; 36], vec![1.0; 32], vec![1.0; 29]])),
        new(|o| o.reaction = Reaction::Cells(vec![])),
        new(|o| o.solid = Some(vec![false; 25])),
    ] {
        assert!(matches!(refused, Err(Error::Shape { .. })), "{refused:?}");
    }
    assert!(matches!(new(|o| o.cells = [1 << 20; 3]), Err(Error::Limit { .. })));
    let empty = GridStencil::new(&GridStencilOptions::volume(3, 0, 2)).unwrap();
    empty.apply(&[], &mut []);
    assert_eq!(
        (empty.size(), empty.norm_inf(), empty.to_csr().unwrap().rows()),
        (0, Some(0.0), 0)
    );
}
