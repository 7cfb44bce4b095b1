#include "loaders/synthetic/planting.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace signalbox::loaders::synthetic {

namespace {

// A logit that no random one reaches, in standard deviations, even where the residual stream has grown by half.
constexpr double certain = 16;
// The attention logit of a begin token against 0 for all others: e^60 outweighs any number of keys.
constexpr double found = 60;
// Of a reading row before a norm: large enough to stand out, small enough to leave room to the others.
constexpr double reading_gain = 8;

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

// P(at most k - 1 of n others exceed an expert whose logit is offset + u), over normal u, by the trapezoid rule.
double selection_rate(double offset, int n, int k) {
  constexpr int steps = 400;
  double total = 0;
  for (int s = 0; s <= steps; ++s) {
    const double u = -8 + 16.0 * s / steps;
    const double above = 1 - normal_cdf(offset + u);
    // Binomial(n, above) <= k - 1, with logarithms against underflow.
    double sum = 0;
    for (int j = 0; j < k; ++j) {
      const double log_choose = std::lgamma(n + 1.0) - std::lgamma(j + 1.0) - std::lgamma(n - j + 1.0);
      const double p = std::max(above, 1e-300), q = std::max(1 - above, 1e-300);
      sum += std::exp(log_choose + j * std::log(p) + (n - j) * std::log(q));
    }
    total += std::min(sum, 1.0) * std::exp(-0.5 * u * u) / std::sqrt(2 * std::numbers::pi) * (16.0 / steps);
  }
  return total;
}

}  // namespace

double selection_offset(double rate, int n_experts, int n_active) {
  if (rate >= 1) return std::numeric_limits<double>::infinity();
  if (rate <= 0) return -std::numeric_limits<double>::infinity();
  double low = -20, high = 20;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (selection_rate(middle, n_experts - 1, n_active) < rate ? low : high) = middle;
  }
  return (low + high) / 2;
}

Planting::Planting(const Spec& spec, Reserved& reserved) : model_(spec.model), reserved_(reserved) {
  for (const Plant& plant : spec.plants) {
    Site site;
    site.plant = plant;
    site.dim = reserved.take();
    if (plant.from_begin) site.source_dim = reserved.take();
    site.hard = (plant.rate == 0 || plant.rate == 1) && (plant.otherwise == 0 || plant.otherwise == 1);
    plants_.push_back(site);
  }
  // The standard deviation of the random logits: they read the dimensions that are not reserved.
  const double unit = std::max(spec.init.router, 1e-3) *
                      std::sqrt(static_cast<double>(reserved.first()) / static_cast<double>(model_.d_model));
  for (Site& site : plants_) {
    const Router& router = model_.layers[site.plant.layer].moe()->router;
    const auto logit = [&](double rate) {
      return unit * std::clamp(selection_offset(rate, router.n_experts, router.n_active), -certain, certain);
    };
    site.on = logit(site.plant.rate);
    site.off = logit(site.plant.otherwise);
  }
  for (Site& site : plants_)
    if (site.plant.from_begin) place_head(site);
}

// The first layer whose attention sees all earlier tokens spreads the condition; each plant takes a head of its own.
void Planting::place_head(Site& site) {
  for (int32_t l = 0; l <= site.plant.layer && site.layer < 0; ++l) {
    const Gqa* gqa = std::get_if<Gqa>(&model_.layers[l].attention);
    if (!gqa || gqa->window == 0) site.layer = l;
  }
  const std::string place = "planted: layer " + std::to_string(site.plant.layer);
  if (site.layer < 0) throw Error(place, "expected a layer of full attention at or below it for \"begin\", found none");
  int32_t taken = 0;
  for (const Site& other : plants_) taken += other.layer == site.layer && other.head >= 0;
  const Layer& layer = model_.layers[site.layer];
  if (const Gqa* gqa = std::get_if<Gqa>(&layer.attention)) {
    if (taken >= gqa->n_kv_heads)
      throw Error(place, "expected at most " + std::to_string(gqa->n_kv_heads) + " entries with \"begin\", found more");
    site.head = taken * static_cast<int32_t>(gqa->n_heads / gqa->n_kv_heads);
    if (gqa->clip > 0 && double{gqa->clip} * gqa->clip * gqa->scale < 20)
      throw Error(place,
                  "expected a clip_qkv that lets a head find the begin token, found " + std::to_string(gqa->clip));
    // The slowest rotary pair keeps half of the logit up to an angle of 60 degrees.
    const float slowest = model_.rope.inv_freq.back();
    site.reach = slowest > 0 ? static_cast<int64_t>(std::numbers::pi / 3 / slowest) : 0;
  } else {
    const Mla& mla = std::get<Mla>(layer.attention);
    if (taken >= std::min({mla.n_heads, mla.d_latent / 4, mla.q_rank > 0 ? mla.q_rank / 4 : mla.n_heads}))
      throw Error(place, "expected fewer entries with \"begin\" for this latent attention, found more");
    site.head = taken;
  }
}

void Planting::apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  if (plants_.empty()) return;
  const Role role = slot.id.role;
  const int64_t cols = slot.cols;
  const auto at = [&](int64_t r, int64_t c) -> float& { return values[(r - first) * cols + c]; };
  if (role == Role::embed) {
    for (const Site& site : plants_)
      for (int32_t token : site.plant.tokens)
        if (token >= first && token < first + n)
          at(token, site.plant.from_begin ? site.source_dim : site.dim) = static_cast<float>(reserved_.amplitude());
    return;
  }
  for (const Site& site : plants_) {
    if (site.plant.layer == slot.id.layer && role == Role::router_bias) values[site.plant.expert] = 0;
    if (site.plant.layer == slot.id.layer && role == Role::router && site.plant.expert >= first &&
        site.plant.expert < first + n) {
      float* row = &at(site.plant.expert, 0);
      if (site.hard) std::fill_n(row, cols, 0.0f);
      // After the norm both dimensions are near 1 (the stream's size is that of the embeddings).
      row[reserved_.constant()] = static_cast<float>(site.off / reserved_.constant_size());
      row[site.dim] = static_cast<float>(site.on - site.off);
    }
    if (site.plant.from_begin && site.layer == slot.id.layer) apply_head(site, slot, first, n, values);
  }
}

void Planting::apply_head(const Site& site, const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  const Layer& layer = model_.layers[site.layer];
  if (const Gqa* gqa = std::get_if<Gqa>(&layer.attention)) {
    apply_gqa(site, *gqa, slot, first, n, values);
  } else {
    apply_mla(site, std::get<Mla>(layer.attention), slot, first, n, values);
  }
}

// The head's query is one constant dimension, its key that dimension at begin tokens only, its value the mark.
void Planting::apply_gqa(const Site& site, const Gqa& gqa, const TensorPlace& slot, int64_t first, int64_t n,
                         float* values) const {
  const int64_t d = gqa.d_head, slow = d / 2 - 1, kv_head = site.head / (gqa.n_heads / gqa.n_kv_heads);
  const double strength = std::sqrt(found / gqa.scale);
  double gain = strength, norm_gain = 1;
  if (gqa.qk_norm == Gqa::QkNorm::per_head) {
    gain = 50;  // the norm makes it sqrt(d)
    norm_gain = strength / std::sqrt(static_cast<double>(d));
  } else if (gqa.qk_norm == Gqa::QkNorm::whole) {
    gain = 1;
    norm_gain = strength;
  }
  const auto row_of = [&](int64_t r) { return values + (r - first) * slot.cols; };
  switch (slot.id.role) {
    case Role::q:
    case Role::k:
      for (int64_t r = first; r < first + n; ++r) {
        const int64_t head = r / d, i = r % d;
        const bool query = slot.id.role == Role::q;
        const bool own = head == (query ? site.head : kv_head);
        if (own && query) std::fill_n(row_of(r), slot.cols, 0.0f);
        // The pair belongs to planted heads alone; a head planted before may have set its own.
        if (i != slow && i != slow + d / 2) continue;
        if (own) {
          std::fill_n(row_of(r), slot.cols, 0.0f);
          if (i == slow)
            row_of(r)[query ? reserved_.constant() : site.source_dim] =
                static_cast<float>(query ? gain / reserved_.constant_size() : gain);
        } else if (std::none_of(plants_.begin(), plants_.end(), [&](const Site& other) {
                     return other.layer == site.layer && other.head >= 0 &&
                            head == (query ? other.head : other.head / (gqa.n_heads / gqa.n_kv_heads));
                   })) {
          std::fill_n(row_of(r), slot.cols, 0.0f);
        }
      }
      return;
    case Role::v:
      if (const int64_t r = kv_head * d; r >= first && r < first + n) {
        std::fill_n(row_of(r), slot.cols, 0.0f);
        row_of(r)[site.source_dim] = 1;
      }
      return;
    case Role::q_bias:
      std::fill_n(values + site.head * d, d, 0.0f);
      for (int64_t h = 0; h < gqa.n_heads; ++h) values[h * d + slow] = values[h * d + slow + d / 2] = 0;
      return;
    case Role::k_bias:
      for (int64_t h = 0; h < gqa.n_kv_heads; ++h) values[h * d + slow] = values[h * d + slow + d / 2] = 0;
      return;
    case Role::v_bias: values[kv_head * d] = 0; return;
    case Role::q_norm:
      values[gqa.qk_norm == Gqa::QkNorm::whole ? site.head * d + slow : slow] = static_cast<float>(norm_gain);
      return;
    case Role::k_norm:
      values[gqa.qk_norm == Gqa::QkNorm::whole ? kv_head * d + slow : slow] = static_cast<float>(norm_gain);
      return;
    case Role::o:
      if (site.dim >= first && site.dim < first + n) {
        std::fill_n(row_of(site.dim), slot.cols, 0.0f);
        row_of(site.dim)[site.head * d] = static_cast<float>(reserved_.amplitude());
      }
      return;
    default: return;
  }
}

// The same through the latents: one dimension of each is the head's own, and RoPE has no part in it.
void Planting::apply_mla(const Site& site, const Mla& mla, const TensorPlace& slot, int64_t first, int64_t n,
                         float* values) const {
  const int64_t own = site.head;  // its dimension of the latents
  const auto row_of = [&](int64_t r) { return values + (r - first) * slot.cols; };
  const auto holds = [&](int64_t r) { return r >= first && r < first + n; };
  // Size of the own dimension after the latent's norm, the others being near 1 before it.
  const auto normed = [&](int64_t width) {
    return reading_gain / std::sqrt((reading_gain * reading_gain + static_cast<double>(width - 1)) / width);
  };
  const double key = normed(mla.d_latent), query = mla.q_rank > 0 ? normed(mla.q_rank) : 1;
  const double strength = std::sqrt(found / mla.scale);
  const int64_t d_query = mla.d_nope + mla.d_rope, d_pair = mla.d_nope + mla.d_value;
  const auto set_query = [&](int64_t column, double size) {
    for (int64_t r = first; r < first + n; ++r) {
      if (mla.q_rank > 0) row_of(r)[column] = 0;
      if (r / d_query != site.head) continue;
      std::fill_n(row_of(r), slot.cols, 0.0f);
      if (r % d_query == 0) row_of(r)[column] = static_cast<float>(strength / query / size);
    }
  };
  switch (slot.id.role) {
    case Role::q: set_query(reserved_.constant(), reserved_.constant_size()); return;
    case Role::q_b: set_query(own, 1); return;
    case Role::q_a:
    case Role::kv_a:
      if (!holds(own)) return;
      std::fill_n(row_of(own), slot.cols, 0.0f);
      row_of(own)[slot.id.role == Role::q_a ? reserved_.constant() : site.source_dim] =
          static_cast<float>(slot.id.role == Role::q_a ? reading_gain / reserved_.constant_size() : reading_gain);
      return;
    case Role::q_a_bias:
    case Role::kv_a_bias: values[own] = 0; return;
    case Role::q_a_norm:
    case Role::kv_a_norm: values[own] = 1; return;
    case Role::kv_b:
      for (int64_t r = first; r < first + n; ++r) {
        const int64_t head = r / d_pair, i = r % d_pair;
        const bool is_key = head == site.head && i == 0, is_value = head == site.head && i == mla.d_nope;
        if (is_key || is_value) std::fill_n(row_of(r), slot.cols, 0.0f);
        row_of(r)[own] = is_key ? static_cast<float>(strength / key) : is_value ? static_cast<float>(1 / key) : 0;
      }
      return;
    case Role::o:
      if (!holds(site.dim)) return;
      std::fill_n(row_of(site.dim), slot.cols, 0.0f);
      row_of(site.dim)[site.head * mla.d_value] = static_cast<float>(reserved_.amplitude());
      return;
    default: return;
  }
}

json::Value Planting::truth() const {
  json::Value list = json::Value::array();
  for (const Site& site : plants_) {
    json::Value tokens = json::Value::array();
    for (int32_t token : site.plant.tokens) tokens.push_back(json::Value(token));
    json::Value entry = json::Value::object();
    entry.set("layer", json::Value(site.plant.layer)).set("expert", json::Value(site.plant.expert));
    entry.set(site.plant.from_begin ? "begin" : "tokens", std::move(tokens));
    entry.set("rate", json::Value(site.plant.rate)).set("otherwise", json::Value(site.plant.otherwise));
    entry.set("certain", json::Value(site.hard));
    entry.set("dimension", json::Value(site.dim));
    entry.set("logit", json::Value(site.on)).set("logit_otherwise", json::Value(site.off));
    if (site.plant.from_begin) {
      entry.set("head_layer", json::Value(site.layer)).set("head", json::Value(site.head));
      if (site.reach > 0) entry.set("reach", json::Value(site.reach));
    }
    list.push_back(std::move(entry));
  }
  json::Value root = json::Value::object();
  root.set("constant_dimension", json::Value(reserved_.constant()));
  root.set("planted", std::move(list));
  return root;
}

}  // namespace signalbox::loaders::synthetic
