// Weights uploaded and packed: value for value what the host holds, rounded to bf16.
#include "kernels/shim/shim_backend.h"
#include "tests/device/device.h"
#include "tests/device/rounded.h"
#include "tests/tolerances.h"

namespace signalbox::test {

namespace {

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

template <class T>
std::vector<T> download(Backend& device, const void* data, int64_t n) {
  std::vector<T> values(static_cast<size_t>(n));
  device.download(values.data(), data, values.size() * sizeof(T));
  return values;
}

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// The columns of down, one after the other: out = hidden down^T for hidden states with a single 1. [n_experts][n, k]
std::vector<std::vector<float>> read_down(Backend& device, const ExpertMatrices& experts) {
  const int64_t n = experts.down[0].rows, k = experts.down[0].cols, n_experts = experts.n_experts();
  std::vector<std::vector<float>> all;
  for (int64_t e = 0; e < n_experts; ++e) {
    std::vector<float> values(static_cast<size_t>(n * k));
    for (int64_t first = 0; first < k; first += 8) {
      const int64_t count = std::min<int64_t>(8, k - first);
      const Buffer<int32_t> ids(device, std::vector<int32_t>(static_cast<size_t>(count), static_cast<int32_t>(e)));
      std::vector<float> one(static_cast<size_t>(count * k));
      for (int64_t i = 0; i < count; ++i) one[static_cast<size_t>(i * k + first + i)] = 1;
      const DeviceTensor hidden(device, count, k, DType::bf16, one);
      DeviceTensor out(device, count, n, DType::f32);
      Route route;
      route.n_slots = 1;
      route.ids = ids.data();
      device.experts_out(out.view(), hidden.view(), route, count, experts);
      const std::vector<float> got = out.get();
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t r = 0; r < n; ++r)
          values[static_cast<size_t>(r * k + first + i)] = got[static_cast<size_t>(i * n + r)];
      }
    }
    all.push_back(std::move(values));
  }
  return all;
}

// The hidden states of eight tokens for every expert, on the device and on the CPU.
void check_hidden(Backend& device, const ExpertMatrices& packed, const ExpertMatrices& host) {
  const int64_t d_model = host.gate[0].cols, d_ff = host.gate[0].rows, n = host.n_experts(), n_tokens = 8;
  std::vector<float> x = normal_values(n_tokens * d_model, 77, true);
  const DeviceTensor device_x(device, n_tokens, d_model, DType::bf16, x);
  HandRoute route(n_tokens, static_cast<int32_t>(n), n);
  for (size_t i = 0; i < route.ids.size(); ++i) route.ids[i] = static_cast<int32_t>(i % static_cast<size_t>(n));
  const Buffer<int32_t> ids(device, route.ids);
  Route device_route;
  device_route.n_slots = route.n_slots;
  device_route.ids = ids.data();
  DeviceTensor hidden(device, n_tokens * n, d_ff, DType::bf16);
  device.experts_hidden(hidden.view(), device_x.view(), device_route, n_tokens, packed, Activation{}, nullptr);
  std::vector<float> want(static_cast<size_t>(n_tokens * n * d_ff));
  cpu("auto", 1)->experts_hidden(Tensor(want.data(), n_tokens * n, d_ff), Tensor(x.data(), n_tokens, d_model),
                                 route.view(), n_tokens, host, Activation{}, nullptr);
  const Tolerance allowed = tolerance::device_gemv_hidden;
  const double absolute = allowed.absolute * 0.2 * static_cast<double>(d_model);
  const Worst worst = compare(hidden.get(), want, absolute, allowed.relative);
  CHECK_MESSAGE(worst.excess <= 0, worst.text);
}

void check_down(Backend& device, const ExpertMatrices& packed, const RoundedExperts& rounded) {
  const auto got = read_down(device, packed);
  const ExpertMatrices host = rounded.matrices();
  for (size_t e = 0; e < got.size(); ++e) {
    const uint16_t* want = static_cast<const uint16_t*>(host.down[e].data);
    int64_t wrong = 0;
    // A zero has lost its sign in the sum.
    for (size_t i = 0; i < got[e].size(); ++i) wrong += got[e][i] != from_bits(uint32_t{want[i]} << 16);
    CHECK(wrong == 0);
  }
}

}  // namespace

TEST_CASE("weights: an uploaded matrix holds the rounded values, and zeros to the next multiple of eight") {
  struct Case {
    DType dtype;
    int64_t rows, cols, gap;
  };
  for_each_device([](Backend& device, const std::string&) {
    // Rows that need more than one stage, and one row that is longer than a stage.
    for (const Case& c : {Case{DType::bf16, 5, 16, 0}, Case{DType::bf16, 70, 100, 0}, Case{DType::bf16, 40, 96, 8},
                          Case{DType::bf16, 3, 3000, 0}, Case{DType::f16, 33, 40, 3}, Case{DType::f16, 1, 1, 0},
                          Case{DType::f32, 30, 77, 5}, Case{DType::f32, 2, 1501, 0}, Case{DType::mxfp4, 9, 64, 0},
                          Case{DType::mxfp4, 130, 96, 32}, Case{DType::mxfp4, 4, 40, 2}, Case{DType::int8, 70, 96, 3},
                          Case{DType::int8, 3, 640, 0}, Case{DType::int4, 70, 96, 32}, Case{DType::int4, 3, 640, 0},
                          Case{DType::bf16, 0, 16, 0}}) {
      CAPTURE(c.cols);
      CAPTURE(c.rows);
      const StoredMatrix stored(c.dtype, c.rows, c.cols, 5, c.gap);
      for (const bool router : {false, true}) {
        const auto uploaded = device.upload_matrix(stored.matrix(), router);
        const Matrix& m = uploaded.matrix;
        CHECK((m.rows == c.rows && m.cols == c.cols && !m.scales));
        CHECK(m.dtype == (router ? DType::f32 : DType::bf16));
        CHECK(m.row_stride == (router ? (c.cols + 3) / 4 * 4 : (c.cols + 7) / 8 * 8));
        CHECK(reinterpret_cast<uintptr_t>(m.data) % 16 == 0);
        int64_t wrong = 0;
        const int64_t n = m.rows * m.row_stride;
        const auto wide = router ? download<float>(device, m.data, n) : std::vector<float>();
        const auto half = router ? std::vector<uint16_t>() : download<uint16_t>(device, m.data, n);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t r = i / m.row_stride, col = i % m.row_stride;
          const float value = col < c.cols ? static_cast<float>(stored.value(r, col)) : 0.f;
          const size_t at = static_cast<size_t>(i);
          wrong += router ? !same(wide[at], value) : !same(from_bits(uint32_t{half[at]} << 16), rounded_bf16(value));
        }
        CHECK(wrong == 0);
      }
    }
  });
}

TEST_CASE("weights: the columns of a wider matrix do not reach the padding") {
  for_each_device([](Backend& device, const std::string&) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::mxfp4, DType::int8, DType::int4}) {
      const StoredMatrix stored(dtype, 11, 96, 6);
      Matrix m = stored.matrix();
      m.cols = 74;
      const auto uploaded = device.upload_matrix(m, false);
      const auto half = download<uint16_t>(device, uploaded.matrix.data, 11 * 80);
      int64_t wrong = 0;
      for (int64_t i = 0; i < 11 * 80; ++i) {
        const float want = i % 80 < 74 ? rounded_bf16(static_cast<float>(stored.value(i / 80, i % 80))) : 0.f;
        wrong += !same(from_bits(uint32_t{half[static_cast<size_t>(i)]} << 16), want);
      }
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("weights: every f16, and f32 that lie between two bf16") {
  for_each_device([](Backend& device, const std::string&) {
    std::vector<uint16_t> halves(65536);
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
    Matrix m;
    m.data = halves.data();
    m.dtype = DType::f16;
    m.rows = 512;
    m.cols = m.row_stride = 128;
    const auto exact = device.upload_matrix(m, true);
    const auto got = download<float>(device, exact.matrix.data, 65536);
    int64_t wrong = 0;
    for (size_t i = 0; i < halves.size(); ++i) {
      const int exponent = static_cast<int>(i >> 10 & 31), fraction = static_cast<int>(i & 0x3ff);
      double want = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      if (exponent == 31) want = fraction ? NAN : INFINITY;
      wrong += !same(got[i], static_cast<float>(i & 0x8000 ? -want : want));
    }
    CHECK(wrong == 0);

    std::vector<float> values = {INFINITY, -INFINITY, NAN, -0.f};
    for (const uint32_t bits : {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x3f807fffu, 0xbf808000u, 0x7f7fffffu,
                                0x00008000u, 0x00018000u, 0x7f800001u})
      values.push_back(from_bits(bits));
    m.data = values.data();
    m.dtype = DType::f32;
    m.rows = 1;
    m.cols = m.row_stride = static_cast<int64_t>(values.size());
    const auto rounded = device.upload_matrix(m, false);
    const auto bits = download<uint16_t>(device, rounded.matrix.data, 16);
    for (size_t i = 0; i < values.size(); ++i) {
      CAPTURE(i);
      CHECK(same(from_bits(uint32_t{bits[i]} << 16), std::isnan(values[i]) ? NAN : rounded_bf16(values[i])));
    }
  });
}

TEST_CASE("weights: packed experts of every stored type") {
  struct Case {
    DType dtype;
    int64_t n_experts, d_model, d_ff;
  };
  for_each_device([](Backend& device, const std::string&) {
    for (const Case& c : {Case{DType::bf16, 3, 24, 16}, Case{DType::bf16, 2, 33, 9}, Case{DType::f16, 2, 40, 20},
                          Case{DType::f32, 2, 72, 24}, Case{DType::mxfp4, 3, 64, 32}, Case{DType::mxfp4, 2, 40, 36},
                          Case{DType::mxfp4, 2, 160, 96}, Case{DType::int8, 2, 96, 32}, Case{DType::int4, 2, 64, 96}}) {
      CAPTURE(c.d_model);
      const StoredExperts stored(c.dtype, c.n_experts, c.d_model, c.d_ff, true, 3);
      const RoundedExperts rounded(stored);
      ExpertMatrices host = rounded.matrices(), packed = stored.matrices();
      const auto block = device.pack_experts(packed);
      packed.packed = block.get();
      check_hidden(device, packed, host);
      ExpertMatrices plain = stored.matrices();
      plain.gate_bias = plain.up_bias = plain.down_bias = {};
      const auto plain_block = device.pack_experts(plain);
      plain.packed = plain_block.get();
      check_down(device, plain, rounded);
    }
  });
}

// On the shim, which counts its memory to the byte.
static void check_bytes(const std::function<std::shared_ptr<const void>(Backend&)>& upload,
                        const std::function<int64_t(const Backend&)>& told) {
  const auto shim = make_shim_backend({});
  upload(*shim);  // leaves the memory behind through which pieces pass
  const size_t before = shim->free_bytes();
  const std::shared_ptr<const void> owner = upload(*shim);
  CHECK(static_cast<int64_t>(before - shim->free_bytes()) == told(*shim));
}

TEST_CASE("weights: they take the bytes that the backend says") {
  const auto cpu = make_cpu_backend({});
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32, DType::mxfp4}) {
    for (const auto& size : {std::pair<int64_t, int64_t>{10, 64}, {6, 40}, {3, 33}, {16, 96}}) {
      const int64_t rows = size.first, cols = size.second;
      if (dtype == DType::mxfp4 && rows % 2 != 0) continue;  // its rows begin with a byte
      CAPTURE(dtype_name(dtype));
      CAPTURE(rows);
      const StoredMatrix stored(dtype, rows, cols, 5);
      const Matrix matrix = stored.matrix();
      CHECK(cpu->matrix_bytes(matrix, false) == stored_bytes(matrix));
      for (const bool router : {false, true})
        check_bytes([&](Backend& shim) { return shim.upload_matrix(matrix, router).owner; },
                    [&](const Backend& shim) { return shim.matrix_bytes(matrix, router); });
      // d_ff and d_model of no round number: the rows and columns behind the last count.
      for (const bool biases : {false, true}) {
        const StoredExperts experts(dtype, 3, cols, rows, biases, 4);
        const ExpertMatrices host = experts.matrices();
        check_bytes([&](Backend& shim) { return shim.pack_experts(host); },
                    [&](const Backend& shim) { return shim.experts_bytes(host); });
        CHECK(cpu->experts_bytes(host) == 3 * (2 * stored_bytes(host.gate[0]) + stored_bytes(host.down[0])) +
                                              (biases ? 3 * 4 * (2 * rows + cols) : 0));
      }
    }
  }
  const StoredExperts four_bits(DType::mxfp4, 2, 64, 40, false, 3), half(DType::f16, 2, 64, 40, false, 4);
  ExpertMatrices mixed = four_bits.matrices();
  const ExpertMatrices other = half.matrices();
  mixed.down = other.down;  // all become bf16
  check_bytes([&](Backend& shim) { return shim.pack_experts(mixed); },
              [&](const Backend& shim) { return shim.experts_bytes(mixed); });
}

TEST_CASE("weights: experts of mixed types become bf16") {
  for_each_device([](Backend& device, const std::string&) {
    const StoredExperts four_bits(DType::mxfp4, 2, 64, 40, false, 3), half(DType::f16, 2, 64, 40, false, 4);
    const RoundedExperts rounded_four(four_bits), rounded_half(half);
    ExpertMatrices packed = four_bits.matrices(), host = rounded_four.matrices();
    const ExpertMatrices other = half.matrices(), other_host = rounded_half.matrices();
    packed.down = other.down;
    host.down = other_host.down;
    const auto block = device.pack_experts(packed);
    packed.packed = block.get();
    check_hidden(device, packed, host);
    check_down(device, packed, rounded_half);
  });
}

TEST_CASE("weights: gate and up rows that take turns in one tensor") {
  for_each_device([](Backend& device, const std::string&) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32, DType::mxfp4}) {
      for (const bool mixed : {false, true}) {  // down of another type: mxfp4 rows are expanded
        const int64_t d_model = dtype == DType::mxfp4 ? 96 : 42, d_ff = 38, n_experts = 2;
        std::vector<StoredMatrix> both;
        for (int64_t e = 0; e < n_experts; ++e)
          both.emplace_back(dtype, d_ff, 2 * d_model, 60 + static_cast<uint64_t>(e));
        const int64_t half_bytes =
            dtype == DType::mxfp4 ? d_model / 2 : d_model * static_cast<int64_t>(dtype_size(dtype));
        const StoredExperts downs(mixed ? DType::f32 : dtype, n_experts, d_model, d_ff, false, 8);
        std::vector<RoundedMatrix> rounded;
        for (const StoredMatrix& m : both) rounded.emplace_back(m);
        std::vector<Matrix> gate, up, host_gate, host_up;
        for (size_t e = 0; e < both.size(); ++e) {
          Matrix m = both[e].matrix(), h = rounded[e].matrix();
          m.cols = h.cols = d_model;
          gate.push_back(m);
          host_gate.push_back(h);
          m.data = static_cast<const char*>(m.data) + half_bytes;
          if (m.scales) m.scales += d_model / 32;
          h.data = static_cast<const uint16_t*>(h.data) + d_model;
          up.push_back(m);
          host_up.push_back(h);
        }
        const RoundedExperts rounded_downs(downs);
        ExpertMatrices packed = downs.matrices(), host = rounded_downs.matrices();
        packed.gate = gate, packed.up = up;
        host.gate = host_gate, host.up = host_up;
        const auto block = device.pack_experts(packed);
        packed.packed = block.get();
        check_hidden(device, packed, host);
        check_down(device, packed, rounded_downs);
      }
    }
  });
}

TEST_CASE("weights: all values of mxfp4 with all scales") {
  for_each_device([](Backend& device, const std::string&) {
    // Rows r and 256 + r have scale r; column c of the first holds value c % 16, of the second only zeros and halves.
    // One matrix kept in four bits, one expanded.
    const int64_t n = 512, k = 32;
    const auto nibble = [](int64_t r, int64_t c) { return r < 256 ? c % 16 : c % 16 & 9; };
    std::vector<uint8_t> data(static_cast<size_t>(n * k / 2)), scales(static_cast<size_t>(n));
    for (int64_t i = 0; i < n * k; ++i) {
      uint8_t& byte = data[static_cast<size_t>(i / 2)];
      byte = static_cast<uint8_t>(byte | nibble(i / k, i % k) << i % 2 * 4);
    }
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<uint8_t>(i);
    Matrix m;
    m.data = data.data();
    m.scales = scales.data();
    m.scale_stride = 1;
    m.dtype = DType::mxfp4;
    m.rows = n;
    m.cols = m.row_stride = k;
    static const float e2m1[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    const auto value = [&](int64_t r, int64_t c) {
      const float scale = from_bits(r % 256 == 0 ? 0x00400000u : static_cast<uint32_t>(r % 256) << 23);
      const int64_t bits = nibble(r, c);
      return rounded_bf16((bits & 8 ? -e2m1[bits & 7] : e2m1[bits & 7]) * scale);
    };

    const auto uploaded = device.upload_matrix(m, false);
    const auto bits = download<uint16_t>(device, uploaded.matrix.data, n * k);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n * k; ++i)
      wrong += !same(from_bits(uint32_t{bits[static_cast<size_t>(i)]} << 16), value(i / k, i % k));
    CHECK(wrong == 0);

    const StoredExperts others(DType::mxfp4, 1, n, k, false, 3);
    ExpertMatrices experts = others.matrices();
    experts.down = {&m, 1};
    const auto block = device.pack_experts(experts);
    experts.packed = block.get();
    const std::vector<float> got = read_down(device, experts)[0];
    wrong = 0;
    for (int64_t r = 0; r < n; ++r) {
      bool finite = true;  // an infinite weight makes NaN of the zeros of a hidden state
      for (int64_t c = 0; c < k; ++c) finite = finite && std::isfinite(value(r, c));
      for (int64_t c = 0; c < k; ++c) {
        const float x = got[static_cast<size_t>(r * k + c)];
        // What lies below the normal numbers, a device may take for zero.
        const float allowed = std::abs(value(r, c)) < 0x1p-126f ? 0x1p-126f : 0.f;
        wrong += finite ? !(std::abs(x - value(r, c)) <= allowed) : std::isfinite(x);
      }
    }
    CHECK(wrong == 0);
  });
}

}  // namespace signalbox::test
