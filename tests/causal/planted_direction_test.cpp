// A planted direction: it appears at its layer, its router part swaps two experts of the next one, its content part
// leaves routes alone and speaks to the head.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/safetensors.h"
#include "probes/trace.h"
#include "tests/causal/planted.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
using test::Planted;

std::vector<double> numbers(const json::Value& list) {
  std::vector<double> out;
  for (const json::Value& item : list.items()) out.push_back(item.real());
  return out;
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

// An F32 vector as a file that edits read.
void write_vector(const std::filesystem::path& file, const std::vector<double>& vector) {
  std::vector<float> values(vector.begin(), vector.end());
  const safetensors::TensorHeader header{"v", "F32", {static_cast<int64_t>(values.size())}};
  safetensors::Writer writer(file, std::span(&header, 1));
  writer.write(values.data(), values.size() * sizeof(float));
  writer.finish();
}

}  // namespace

TEST_CASE("planted direction: where it is, what its two parts do") {
  for (const std::string family : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2"}) {
    CAPTURE(family);
    const int layer = 1;
    const Planted planted(
        R"({"family":")" + family + R"(","dtype":"f32","seed":5,"config":{"num_hidden_layers":4},"circuits":[)" +
        R"({"kind":"direction","expert":{"layer":1,"expert":0},"swap":[3,5],"tokens":[[48,49]],"answer":65,"foil":66,)" +
        R"("records":4,"length":6}]})");
    const json::Value& truth = planted.circuit(0);
    const std::vector<double> content = numbers(*truth.find("content")), router = numbers(*truth.find("router"));
    const auto d = content.size();
    std::vector<double> whole(d), back_content(d), back_router(d), back(d);
    for (size_t i = 0; i < d; ++i) {
      whole[i] = content[i] + router[i];
      back_content[i] = -2 * content[i];
      back_router[i] = -2 * router[i];
      back[i] = -2 * whole[i];
    }
    // The next router sees of the content nothing, of the router part the difference of two rows.
    const LayerWeights& next = planted.session->weights.layers[layer + 1];
    const Matrix& w = std::get<MoeWeights>(next.ffn).router;
    const auto logit = [&](const std::vector<double>& v, int64_t expert) {
      double sum = 0;
      for (size_t i = 0; i < d; ++i)
        sum += v[i] * double{next.ffn_norm.data[i]} *
               double{static_cast<const float*>(w.data)[expert * w.row_stride + static_cast<int64_t>(i)]};
      return sum;
    };
    for (int64_t e = 0; e < w.rows; ++e) CHECK(std::fabs(logit(content, e)) < 1e-9);
    CHECK(logit(router, 5) - logit(router, 3) > 0.05);
    const std::vector<Record> on = planted.records(0, "on"), off = planted.records(0, "off");
    planted.trace(on, "on", "*.resid_out,*.router.ids");
    planted.trace(off, "off", "*.resid_out,*.router.ids");
    const TraceReader a(planted.dir / "on"), b(planted.dir / "off");
    const int64_t last = 5, k = a.n_slots(), n_layers = static_cast<int64_t>(a.layers().size());
    const int64_t first = family == "deepseek_v2" ? 1 : 0;  // its first layer has no router
    const auto difference = [&](int at) {
      std::vector<double> mean(d);
      const std::string name = "layer." + std::to_string(at) + ".resid_out";
      for (int64_t s = 0; s < 4; ++s) {
        const std::vector<float> x = a.floats(name, a.rows(s)), y = b.floats(name, b.rows(s));
        for (size_t i = 0; i < d; ++i) mean[i] += (double{x[last * d + i]} - double{y[last * d + i]}) / 4;
      }
      return mean;
    };
    const auto has = [&](const TraceReader& trace, int64_t sample, int32_t expert) {
      const std::vector<int32_t> ids = trace.ids(trace.rows(sample));
      const auto begin = ids.begin() + (last * n_layers + layer + 1 - first) * k;
      return std::count(begin, begin + k, expert) > 0;
    };
    CHECK(cosine(difference(layer), whole) > 0.99);
    double before = 0;
    for (const double x : difference(layer - 1)) before += x * x;
    CHECK(std::sqrt(before) < 0.04);  // the mark alone
    for (int64_t s = 0; s < 4; ++s) {
      CHECK((has(a, s, 5) && !has(a, s, 3)));
      CHECK((!has(b, s, 5) && has(b, s, 3)));
    }
    const auto add = [&](const std::string& name) {
      return R"([{"op":"add","point":"layer.1.resid_out","vector":")" + name +
             R"(.safetensors:v","tokens":{"positions":"5:"}}])";
    };
    write_vector(planted.dir / "content.safetensors", back_content);
    write_vector(planted.dir / "router.safetensors", back_router);
    write_vector(planted.dir / "back.safetensors", back);
    planted.trace(on, "without_content", "*.router.ids", add("content"));
    planted.trace(on, "without_router", "*.router.ids", add("router"));
    const TraceReader without_content(planted.dir / "without_content"), without_router(planted.dir / "without_router");
    for (int64_t s = 0; s < 4; ++s) {
      CHECK((has(without_content, s, 5) && !has(without_content, s, 3)));
      CHECK((!has(without_router, s, 5) && has(without_router, s, 3)));
    }
    // Against the whole, half of it or so goes through routes.
    const EffectsRow both = planted.effect(on, add("back")), of_content = planted.effect(on, add("content")),
                     of_router = planted.effect(on, add("router"));
    CHECK(std::fabs(both.total + 1) < 0.35);
    CHECK((both.direct < -0.2 && both.routes < -0.2));
    CHECK(of_content.total < -0.2);
    CHECK(std::fabs(of_content.routes) < 0.05);
    CHECK(of_router.total < -0.2);
    CHECK(std::fabs(of_router.direct) < 0.1);
  }
}
