// signalbox inspect: what a model is.
#include "tools/signalbox/inspect.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>

#include "base/text.h"
#include "base/text_table.h"
#include "loaders/families/family.h"
#include "probes/edit_spec.h"
#include "probes/points.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/route_view.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

namespace {

template <class... Ts>
struct overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
overloaded(Ts...) -> overloaded<Ts...>;

json::Value describe(const Router& router) {
  json::Value out = json::Value::object();
  out.set("n_experts", int64_t{router.n_experts})
      .set("n_active", int64_t{router.n_active})
      .set("score", router.softmax_over_selected             ? "softmax over selected"
                    : router.score == Router::Score::softmax ? "softmax"
                                                             : "sigmoid")
      .set("renormalize", router.renormalize)
      .set("scale", static_cast<double>(router.scale))
      .set("n_groups", int64_t{router.n_groups})
      .set("n_groups_kept", int64_t{router.n_groups_kept})
      .set("bias", router.bias)
      .set("selection_bias", router.selection_bias);
  return out;
}

json::Value describe(const Layer& layer, int64_t l) {
  json::Value out = json::Value::object();
  out.set("layer", l);
  std::visit(overloaded{[&](const Gqa& a) {
                          out.set("attention", "gqa")
                              .set("n_heads", a.n_heads)
                              .set("n_kv_heads", a.n_kv_heads)
                              .set("d_head", a.d_head);
                          if (a.window > 0) out.set("window", a.window);
                          if (a.sinks) out.set("sinks", true);
                        },
                        [&](const Mla& a) {
                          out.set("attention", "mla")
                              .set("n_heads", a.n_heads)
                              .set("q_rank", a.q_rank)
                              .set("d_latent", a.d_latent)
                              .set("d_nope", a.d_nope)
                              .set("d_rope", a.d_rope)
                              .set("d_value", a.d_value);
                        }},
             layer.attention);
  std::visit(overloaded{[&](const Dense& d) { out.set("ffn", "dense").set("d_ff", d.d_ff); },
                        [&](const Moe& m) {
                          out.set("ffn", "moe").set("d_ff", m.d_ff).set("d_ff_shared", m.d_ff_shared);
                          out.set("router", describe(m.router));
                        }},
             layer.ffn);
  return out;
}

std::string shape_of(const TensorPlace& slot) {
  return slot.vector ? "[" + std::to_string(slot.cols) + "]"
                     : "[" + std::to_string(slot.rows) + ", " + std::to_string(slot.cols) + "]";
}

// A tensor's name in the family's hub checkpoints.
std::string hub_name(const std::string& family, const TensorId& id) {
  return families::sources(*families::find_family(family), id).front().name;
}

// Bytes of weights that a forward of one token reads, and of keys and values that it leaves in the cache.
struct Bytes {
  int64_t weights = 0, active = 0, cache = 0;
  std::map<std::string, int64_t> of_dtype;  // of matrices
};

Bytes count_bytes(const Model& model, Weights& weights) {
  Bytes bytes;
  for_each_tensor(model, weights, [&](const TensorPlace& slot) {
    const int64_t size = slot.matrix ? stored_bytes(*slot.matrix) : slot.vector->n * 4;
    bytes.weights += size;
    if (slot.matrix) bytes.of_dtype[std::string(dtype_name(slot.matrix->dtype))] += size;
    if (slot.id.expert >= 0) {
      const Router& router = model.layers[slot.id.layer].moe()->router;
      bytes.active += size * router.n_active / router.n_experts;
    } else if (slot.id.role == Role::embed) {
      bytes.active += model.tied_embeddings ? size : size / model.n_vocab;  // tied: all of it as the head
    } else {
      bytes.active += size;
    }
  });
  for (const Layer& layer : model.layers) {
    const auto [key, value] = Model::kv_width(layer);
    bytes.cache += (key + value) * 4;
  }
  return bytes;
}

// Layers that look the same, as "1-26: ...".
std::string layer_line(const Layer& layer) {
  char text[256];
  std::string out = std::visit(
      overloaded{[&](const Gqa& a) {
                   std::snprintf(
                       text, sizeof text, "attention %ld heads, %ld kv heads of %ld%s%s", static_cast<long>(a.n_heads),
                       static_cast<long>(a.n_kv_heads), static_cast<long>(a.d_head),
                       a.window > 0 ? (", window " + std::to_string(a.window)).c_str() : "", a.sinks ? ", sinks" : "");
                   return std::string(text);
                 },
                 [&](const Mla& a) {
                   std::snprintf(text, sizeof text, "latent attention %ld heads, latent %ld + rope %ld, value %ld",
                                 static_cast<long>(a.n_heads), static_cast<long>(a.d_latent),
                                 static_cast<long>(a.d_rope), static_cast<long>(a.d_value));
                   return std::string(text);
                 }},
      layer.attention);
  out += "; ";
  out += std::visit(overloaded{[&](const Dense& d) { return "dense, width " + std::to_string(d.d_ff); },
                               [&](const Moe& m) {
                                 std::string line = std::to_string(m.router.n_experts) + " experts of width " +
                                                    std::to_string(m.d_ff) + ", " + std::to_string(m.router.n_active) +
                                                    " active";
                                 if (m.d_ff_shared > 0)
                                   line += ", shared expert of width " + std::to_string(m.d_ff_shared) +
                                           (m.shared_gate ? " (gated)" : "");
                                 line += m.router.softmax_over_selected             ? "; softmax over the selected"
                                         : m.router.score == Router::Score::softmax ? "; softmax"
                                                                                    : "; sigmoid";
                                 if (m.router.renormalize) line += ", renormalised";
                                 if (m.router.scale != 1) line += ", scale " + std::to_string(m.router.scale);
                                 if (m.router.n_groups > 1)
                                   line += ", best " + std::to_string(m.router.n_groups_kept) + " of " +
                                           std::to_string(m.router.n_groups) + " groups";
                                 return line;
                               }},
                    layer.ffn);
  return out;
}

// A point in one layer (-1: of none), with the shape of one token's value; -1: as many as there are keys to look at.
struct ListedPoint {
  PointAt at;
  std::vector<int64_t> dims;
};

std::vector<ListedPoint> list_points(const std::string& globs, const ModelShape& shape) {
  std::vector<ListedPoint> out;
  for (const PointAt& at : PointSet::parse(globs, shape).all())
    out.push_back({at, point_dims(at.point, at.layer, shape, at.layer < 0 ? 0 : shape.layers[at.layer].n_active, -1)});
  return out;
}

json::Value points_json(const std::vector<ListedPoint>& points) {
  json::Value list = json::Value::array();
  for (const ListedPoint& one : points) {
    json::Value line = json::Value::object(), dims = json::Value::array();
    for (const int64_t d : one.dims) dims.push_back(d < 0 ? json::Value() : json::Value(d));
    const PointInfo& info = point_info(one.at.point);
    line.set("name", point_name(one.at.point, one.at.layer))
        .set("layer", one.at.layer < 0 ? json::Value() : json::Value(int64_t{one.at.layer}))
        .set("shape", std::move(dims))
        .set("writable", info.writable);
    list.push_back(std::move(line));
  }
  return list;
}

// Points that differ by their layer alone stand in one row.
std::string points_text(const std::vector<ListedPoint>& points, int width) {
  struct Row {
    std::string name, shape;
    bool writable;
    std::vector<int32_t> layers;
  };
  std::vector<Row> rows;
  for (const ListedPoint& one : points) {
    const PointInfo& info = point_info(one.at.point);
    const std::string name = (info.per_layer ? "layer.{l}." : "") + std::string(info.name);
    const std::string shape =
        "[" + joined(one.dims, ", ", [](int64_t d) { return d < 0 ? std::string("positions") : std::to_string(d); }) +
        "]";
    auto row = std::find_if(rows.begin(), rows.end(),
                            [&](const Row& other) { return other.name == name && other.shape == shape; });
    if (row == rows.end()) row = rows.insert(rows.end(), {name, shape, info.writable, {}});
    if (one.at.layer >= 0) row->layers.push_back(one.at.layer);
  }
  TextTable table({{"  point", false, true}, {"layers", false}, {"shape", false}, {"", false}});
  for (const Row& row : rows)
    table.add({"  " + row.name, layer_ranges(row.layers), row.shape, row.writable ? "can be written" : ""});
  return table.text(width);
}

std::string people(double value, const char* const* units, double step) {
  int u = 0;
  while (value >= step && units[u + 1]) {
    value /= step;
    ++u;
  }
  char text[40];
  std::snprintf(text, sizeof text,
                value < 10 && u > 0    ? "%.2f%s"
                : value < 100 && u > 0 ? "%.1f%s"
                                       : "%.0f%s",
                value, units[u]);
  return text;
}
std::string count_text(int64_t n) {
  static const char* const units[] = {"", " thousand", " million", " billion", nullptr};
  return people(static_cast<double>(n), units, 1000);
}
std::string bytes_text(int64_t n) {
  static const char* const units[] = {" B", " kB", " MB", " GB", nullptr};
  return people(static_cast<double>(n), units, 1000);
}

}  // namespace

json::Value model_facts_json(Session& session) {
  const Model& model = session.model;
  const ParameterCount parameters = count_parameters(model);
  const Bytes bytes = count_bytes(model, session.weights);
  json::Value out = json::Value::object(), layers = json::Value::array(), stops = json::Value::array();
  for (int64_t l = 0; l < model.n_layers(); ++l) layers.push_back(describe(model.layers[l], l));
  json::Value of_dtype = json::Value::object();
  for (const auto& [dtype, size] : bytes.of_dtype) of_dtype.set(dtype, size);
  for (int32_t token : session.stop_tokens) stops.push_back(int64_t{token});
  out.set("model", session.path)
      .set("family", session.family)
      .set("commit", session.commit)
      .set("model_hash", session.model_hash)
      .set("d_model", model.d_model)
      .set("n_layers", model.n_layers())
      .set("n_vocab", model.n_vocab)
      .set("max_positions", model.max_positions)
      .set("parameters", parameters.total)
      .set("active_parameters", parameters.active)
      .set("weight_bytes", bytes.weights)
      .set("weight_bytes_per_token", bytes.active)
      .set("matrix_bytes", std::move(of_dtype))
      .set("cache_bytes_per_token", bytes.cache)
      .set("weights_on_cpu", name_of(session.weight_memory.kind))
      .set("available_memory", session.weight_memory.available)
      .set("layers", std::move(layers))
      .set("stop_tokens", std::move(stops))
      .set("tokenizer", session.tokenizer ? json::Value(session.tokenizer->description()) : json::Value())
      .set("chat_template", session.chat_template != nullptr);
  return out;
}

int inspect_command(int argc, char** argv) {
  CLI::App app("What a model is: layers, routers, experts, parameters, bytes a token, tokenizer, template.",
               "signalbox inspect");
  app.footer("Examples:\n  signalbox inspect builtin --tensors\n  signalbox inspect builtin --points '*router*'");
  CommonOptions options;
  bool tensors = false;
  std::string points;
  app.add_option("MODEL", options.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  app.add_flag("--tensors", tensors, "list every tensor");
  auto* points_option = app.add_option("--points", points,
                                       "list the probe points that match GLOB[,GLOB...] (all), with the shape of a "
                                       "token's value (docs/probes.md)")
                            ->type_name("GLOB")
                            ->expected(0, 1);
  app.add_flag("--json", options.json, "machine output");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (points.empty()) points = "*";

  options.load = "none";
  Session session = open_session(options);
  const std::vector<ListedPoint> listed =
      points_option->count() > 0 ? list_points(points, session.shape) : std::vector<ListedPoint>();
  const Model& model = session.model;
  const ParameterCount parameters = count_parameters(model);
  const Bytes bytes = count_bytes(model, session.weights);

  if (options.json) {
    json::Value out = model_facts_json(session);
    if (points_option->count() > 0) out.set("points", points_json(listed));
    if (tensors) {
      json::Value list = json::Value::array();
      for_each_tensor(model, session.weights, [&](const TensorPlace& slot) {
        json::Value line = json::Value::object();
        line.set("name", hub_name(session.family, slot.id))
            .set("shape", shape_of(slot))
            .set("dtype", slot.matrix ? std::string(dtype_name(slot.matrix->dtype)) : "F32");
        list.push_back(line);
      });
      out.set("tensors", std::move(list));
      json::Value unknown = json::Value::array();
      for (const std::string& name : session.unknown_tensors) unknown.push_back(name);
      out.set("unknown_tensors", std::move(unknown));
    }
    write_stdout(json::dump(out) + "\n");
    return 0;
  }

  const int width = terminal_width(STDOUT_FILENO);
  std::string text = session.path + " (" + session.family + ")\n";
  text +=
      "  parameters    " + count_text(parameters.total) + ", " + count_text(parameters.active) + " active a token\n";
  text += "  weights       " + bytes_text(bytes.weights) + ", " + bytes_text(bytes.active) + " read a token\n";
  std::string stored;
  for (const auto& [dtype, size] : bytes.of_dtype)
    stored += (stored.empty() ? "" : ", ") + dtype + " " + bytes_text(size);
  text += "  matrices      " + stored + "\n";
  if (session.weight_memory.kind == WeightMemory::Kind::copied)
    text += "  on the CPU    copied into memory when it is run\n";
  if (session.weight_memory.kind == WeightMemory::Kind::mapped)
    text += "  on the CPU    read from the files: " + bytes_text(bytes_to_copy(bytes.weights)) +
            " of memory for a copy, " + bytes_text(session.weight_memory.available) + " available\n";
  text += "  cache         " + bytes_text(bytes.cache) + " a token\n";
  text += "  width         " + std::to_string(model.d_model) + ", vocabulary " + std::to_string(model.n_vocab) +
          ", at most " + std::to_string(model.max_positions) + " positions\n";
  text += "  tokenizer     " + (session.tokenizer ? session.tokenizer->description() : "none") + "\n";
  text += std::string("  chat template ") + (session.chat_template ? "yes" : "none") + "\n  layers\n";
  for (int64_t l = 0; l < model.n_layers();) {
    const std::string line = layer_line(model.layers[l]);
    int64_t last = l;
    while (last + 1 < model.n_layers() && layer_line(model.layers[last + 1]) == line) ++last;
    char range[32];
    std::snprintf(range, sizeof range, last > l ? "%ld-%ld" : "%ld", static_cast<long>(l), static_cast<long>(last));
    text += "    " + std::string(range) + std::string(std::max<size_t>(8 - std::string(range).size(), 1), ' ');
    text += (width > 0 ? wrapped(line, width, 12, 12) : line) + "\n";
    l = last + 1;
  }
  if (!session.unknown_tensors.empty())
    text += "  " + std::to_string(session.unknown_tensors.size()) +
            " stored tensors that the model does not use (--tensors lists them)\n";
  if (points_option->count() > 0) text += points_text(listed, width);
  if (tensors) {
    text += "  tensors\n";
    for_each_tensor(model, session.weights, [&](const TensorPlace& slot) {
      const std::string name = hub_name(session.family, slot.id);
      text += "    " + name + std::string(name.size() < 44 ? 44 - name.size() : 1, ' ') +
              (slot.matrix ? std::string(dtype_name(slot.matrix->dtype)) : "F32") + "  " + shape_of(slot) + "\n";
    });
    for (const std::string& name : session.unknown_tensors) text += "    unused: " + name + "\n";
  }
  write_stdout(text);
  return 0;
}

}  // namespace signalbox::tools
