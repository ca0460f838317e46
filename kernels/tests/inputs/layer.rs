//! A layer of random weights.

use palimpsest_kernels::{
    Dtype, Gdn2Shape, Kernels, Layer, LayerOffsets, LayerRows, Matrix, Mixer, MixerRows, OutputGate, ShapeError,
};

use super::Random;

/// Its sizes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub shape: Gdn2Shape,
    pub width: usize,
    pub hidden: usize,
    pub ranks: [usize; 2],
}

impl Sizes {
    fn keys(&self) -> usize {
        self.shape.heads * self.shape.key_dim
    }

    fn values(&self) -> usize {
        self.shape.value_heads * self.shape.value_dim
    }

    pub fn at(&self) -> LayerOffsets {
        let conv_q = 5 + self.shape.state_elements();
        let (conv_k, conv_v) = (conv_q + 3 * self.keys(), conv_q + 6 * self.keys());
        LayerOffsets { recurrent: 5, conv_q, conv_k, conv_v }
    }

    pub fn state(&self) -> usize {
        self.at().conv_v + 3 * self.values() + 2
    }
}

/// Weights, in the order of [`Layer`]: `q, k, v, b, w, f_down, g_down, f_up, g_up, o, gate, up, down`.
pub struct Weights {
    pub sizes: Sizes,
    pub matrices: [Matrix; 13],
    pub norms: [Vec<f32>; 3],
    taps: [Vec<f32>; 3],
    a_log: Vec<f32>,
    biases: [Vec<f32>; 2],
    output_gate: OutputGate,
}

impl Weights {
    pub fn random(random: &mut Random, sizes: Sizes, dtypes: [Dtype; 13]) -> Self {
        let Sizes { shape, width, hidden, ranks: [f, g] } = sizes;
        let (keys, values) = (sizes.keys(), sizes.values());
        let matrices = [
            (keys, width),
            (keys, width),
            (values, width),
            (keys, width),
            (values, width),
            (f, width),
            (g, width),
            (keys, f),
            (values, g),
            (width, values),
            (hidden, width),
            (hidden, width),
            (width, hidden),
        ];
        let mut at = 0..;
        Self {
            sizes,
            matrices: matrices.map(|(n, k)| {
                let weights = random.vec(n * k, -0.3, 0.3);
                Matrix::pack(n, k, &weights, dtypes[at.next().unwrap()]).unwrap()
            }),
            norms: [width, width, shape.value_dim].map(|n| random.vec(n, 0.5, 1.5)),
            taps: [keys, keys, values].map(|n| random.vec(4 * n, -1.0, 1.0)),
            a_log: random.vec(shape.heads, -2.0, 1.0),
            biases: [keys, values].map(|n| random.vec(n, -1.0, 1.0)),
            output_gate: [OutputGate::Sigmoid, OutputGate::Silu][random.below(2)],
        }
    }

    pub fn layer(&self) -> Layer<'_> {
        let [q, k, v, b, w, f_down, g_down, f_up, g_up, o, gate, up, down] = self.matrices.each_ref();
        let [mixer_norm, mlp_norm, o_norm] = self.norms.each_ref().map(|x| &x[..]);
        let [q_taps, k_taps, v_taps] = self.taps.each_ref().map(|x| &x[..]);
        let [dt_bias, g_bias] = self.biases.each_ref().map(|x| &x[..]);
        let mixer = Mixer {
            shape: self.sizes.shape,
            q_taps,
            k_taps,
            v_taps,
            f_up,
            a_log: &self.a_log,
            dt_bias,
            g_up,
            g_bias,
            o_norm,
            eps: 1e-5,
            output_gate: self.output_gate,
            erase_scale: 2.0,
            write_scale: 1.0,
        };
        Layer { mixer_norm, q, k, v, b, w, f_down, g_down, mixer, o, mlp_norm, gate, up, down }
    }
}

/// The rows of a round and the states of its sequences.
#[derive(Clone)]
pub struct Round {
    pub lens: Vec<usize>,
    pub x: Vec<f32>,
    /// `b, q, k, g, raw_q, raw_k` and `w, v, gate, out, mixed, raw_v`.
    pub keys: [Vec<f32>; 6],
    pub values: [Vec<f32>; 6],
    pub low: [Vec<f32>; 2],
    pub hidden: Vec<f32>,
    pub normed: Vec<f32>,
    pub states: Vec<Vec<f32>>,
}

impl Round {
    pub fn random(random: &mut Random, sizes: &Sizes, lens: &[usize]) -> Self {
        let m: usize = lens.iter().sum();
        let nothing = |n: usize| vec![f32::NAN; m * n];
        Self {
            lens: lens.to_vec(),
            x: random.vec(m * sizes.width, -2.0, 2.0),
            keys: [(); 6].map(|()| nothing(sizes.keys())),
            values: [(); 6].map(|()| nothing(sizes.values())),
            low: sizes.ranks.map(nothing),
            hidden: nothing(sizes.hidden),
            normed: nothing(sizes.width),
            states: lens.iter().map(|_| random.vec(sizes.state(), -1.0, 1.0)).collect(),
        }
    }

    pub fn run(&mut self, kernels: &Kernels, weights: &Weights, at: LayerOffsets, at_once: bool) -> Result<(), ShapeError> {
        let ([b, q, k, g, raw_q, raw_k], [w, v, gate, out, mixed, raw_v]) = (&mut self.keys, &mut self.values);
        let ([decay_low, gate_low], normed, hidden, x) = (&mut self.low, &mut self.normed, &mut self.hidden, &mut self.x);
        let mixer = MixerRows { raw_q, raw_k, raw_v, decay_low, gate_low, b, w, q, k, v, g, gate, out, mixed };
        let rows = LayerRows { x, normed, mixer, hidden };
        let (layer, lens, states) = (&weights.layer(), &self.lens, &mut self.states);
        if at_once {
            kernels.layer(layer, lens, rows, states, at)
        } else {
            kernels.layer_one_by_one(layer, lens, rows, states, at)
        }
    }

    /// All that is written, but for the norms of the rows, which one row does without.
    pub fn written(&self) -> Vec<f32> {
        [&self.x, &self.hidden]
            .into_iter()
            .chain(&self.keys)
            .chain(&self.values)
            .chain(&self.low)
            .chain(&self.states)
            .flatten()
            .copied()
            .collect()
    }
}
