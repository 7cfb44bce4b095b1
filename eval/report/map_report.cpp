#include "eval/report/map_report.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/report_table.h"
#include "eval/report/token_text.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* file_of_map = "map.safetensors";
constexpr size_t listed_experts = 20;

// The part of a map that a page holds.
struct MapExcerpt {
  std::vector<size_t> n_tokens;  // of each record that is shown, from the first on
  std::vector<int64_t> offsets;  // of all records
  json::Value samples;           // ids of all records
  size_t n_layers = 0, n_slots = 0, id_bytes = 1;
};

const std::byte* tensor_bytes(const safetensors::File& file, const char* name, const std::vector<int64_t>& shape) {
  const safetensors::TensorInfo& info = file.at(name);
  if (info.shape != shape)
    throw Error(file.name(), std::string("expected ") + name + " of " + safetensors::shape_text(shape) + ", found " +
                                 safetensors::shape_text(info.shape));
  return file.data(info);
}

MapExcerpt excerpt_of(const safetensors::File& file, const MapLimits& limits) {
  MapExcerpt found;
  const auto metadata = [&](const char* key) {
    const auto at = file.metadata().find(key);
    if (at == file.metadata().end())
      throw Error(file.name(), std::string("expected metadata \"") + key + "\", found none");
    return json::parse(at->second, file.name() + ": " + key);
  };
  found.samples = metadata("samples");
  const safetensors::TensorInfo& effect = file.at("effect");
  if (effect.shape.size() != 3 || effect.type != DType::f32)
    throw Error(file.name(), "expected effect of F32 [T, L, k], found " + effect.dtype + " " +
                                 safetensors::shape_text(effect.shape));
  found.n_layers = static_cast<size_t>(effect.shape[1]);
  found.n_slots = static_cast<size_t>(effect.shape[2]);
  found.id_bytes = file.at("router.ids").dtype == "U16" ? 2 : 1;
  found.offsets.resize(found.samples.items().size() + 1);
  std::memcpy(found.offsets.data(), tensor_bytes(file, "sample_offsets", {static_cast<int64_t>(found.offsets.size())}),
              found.offsets.size() * sizeof(int64_t));
  const auto bytes_of_token =
      static_cast<int64_t>(found.n_layers * found.n_slots * (found.id_bytes + (file.find("atp") ? 8 : 4)));
  int64_t left = limits.bytes;
  for (size_t i = 0; i + 1 < found.offsets.size(); ++i) {
    const int64_t all = found.offsets[i + 1] - found.offsets[i];
    // A page of one long record holds its beginning, whatever the room.
    const int64_t n = std::min({all, limits.record_tokens, i == 0 ? std::max<int64_t>(1, left / bytes_of_token) : all});
    if (i > 0 && n * bytes_of_token > left) break;
    left -= n * bytes_of_token;
    found.n_tokens.push_back(static_cast<size_t>(n));
  }
  return found;
}

std::string rows_of(const safetensors::File& file, const MapExcerpt& excerpt, const char* name, size_t bytes) {
  const std::byte* data = tensor_bytes(
      file, name,
      {excerpt.offsets.back(), static_cast<int64_t>(excerpt.n_layers), static_cast<int64_t>(excerpt.n_slots)});
  const size_t row = excerpt.n_layers * excerpt.n_slots * bytes;
  std::string out;
  for (size_t i = 0; i < excerpt.n_tokens.size(); ++i)
    out.append(reinterpret_cast<const char*>(data) + static_cast<size_t>(excerpt.offsets[i]) * row,
               excerpt.n_tokens[i] * row);
  return out;
}

// The pieces of the records that are shown; empty where there are none.
std::vector<std::vector<std::string>> pieces_of_records(const fs::path& dir, const MapExcerpt& excerpt) {
  std::vector<std::vector<std::string>> out(excerpt.n_tokens.size());
  LineReader reader(dir / "texts.jsonl");
  std::string_view text;
  for (size_t i = 0; i < out.size() && reader.next(text); ++i) {
    const json::Value value = json::parse(text, reader.where());
    const json::Ref line(value, reader.where()), pieces = line.at("pieces");
    if (line.at("id").string() != excerpt.samples.items()[i].string())
      line.at("id").fail("expected the record in its place, \"" + excerpt.samples.items()[i].string() + "\", found \"" +
                         line.at("id").string() + "\"");
    if (pieces.is_null()) continue;
    if (pieces.length() < excerpt.n_tokens[i])
      pieces.fail("expected a piece for each of " + std::to_string(excerpt.n_tokens[i]) + " tokens, found " +
                  std::to_string(pieces.length()));
    for (size_t t = 0; t < excerpt.n_tokens[i]; ++t) out[i].push_back(pieces[t].string());
  }
  return out;
}

json::Value index_of(const safetensors::File& file, const MapExcerpt& excerpt, const fs::path& dir,
                     const json::Ref& summary) {
  std::vector<int32_t> tokens(static_cast<size_t>(excerpt.offsets.back()));
  std::memcpy(tokens.data(), tensor_bytes(file, "tokens", {excerpt.offsets.back()}), tokens.size() * sizeof(int32_t));
  std::vector<double> base(excerpt.offsets.size() - 1);
  std::memcpy(base.data(), tensor_bytes(file, "base", {static_cast<int64_t>(base.size())}),
              base.size() * sizeof(double));
  const std::vector<std::vector<std::string>> pieces = pieces_of_records(dir, excerpt);
  const Spelling spelling = spelling_of(pieces);
  json::Value samples = json::Value::array();
  int64_t row = 0;
  for (size_t i = 0; i < excerpt.n_tokens.size(); ++i) {
    json::Value ids = json::Value::array(), texts;
    for (size_t t = 0; t < excerpt.n_tokens[i]; ++t)
      ids.push_back(int64_t{tokens[static_cast<size_t>(excerpt.offsets[i]) + t]});
    if (!pieces[i].empty()) {
      texts = json::Value::array();
      for (std::string& text : token_texts_of(pieces[i], spelling)) texts.push_back(std::move(text));
    }
    samples.push_back(json::Value::object()
                          .set("id", excerpt.samples.items()[i])
                          .set("row", row)
                          .set("n", static_cast<int64_t>(excerpt.n_tokens[i]))
                          .set("of", excerpt.offsets[i + 1] - excerpt.offsets[i])
                          .set("base", base[i])
                          .set("tokens", std::move(ids))
                          .set("texts", std::move(texts)));
    row += static_cast<int64_t>(excerpt.n_tokens[i]);
  }
  return json::Value::object()
      .set("metric", summary.at("metric").value())
      .set("without", summary.at("without").value())
      .set("layers", summary.at("layers").value())
      .set("n_slots", static_cast<int64_t>(excerpt.n_slots))
      .set("id_bytes", static_cast<int64_t>(excerpt.id_bytes))
      .set("sampled", file.find("atp") != nullptr)
      .set("samples", std::move(samples));
}

std::string mapped_expert(const ReportTable& experts, size_t row) {
  return "L" + experts.text(row, "layer") + "E" + experts.text(row, "expert");
}

std::string taken_out(const std::string& without) {
  if (without == "ban") return "banning an expert for one token, so that the next best takes its place,";
  if (without == "mean") return "putting an expert's mean contribution in the place of its own at one token";
  return "taking an expert's contribution to one token away";
}

std::vector<size_t> by_size(const ReportTable& experts) {
  std::vector<size_t> order;
  for (size_t r = 0; r < experts.n_rows(); ++r) order.push_back(r);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::fabs(experts.number(a, "mean")) > std::fabs(experts.number(b, "mean"));
  });
  return order;
}

std::string finding_text(const json::Ref& summary, const ReportTable& experts, const std::vector<size_t>& order) {
  const json::Ref mean = summary.at("mean_effect");
  const auto number = [](const json::Ref& value) { return value.is_null() ? no_number : value.number(); };
  const std::string metric = summary.at("metric").string();
  std::string out = "On the average over slots, " + taken_out(summary.at("without").string()) + " changes " + metric +
                    " by " + format_difference(number(mean.at("mean")), 4);
  const bool sampled = !summary.at("sample").is_null();
  if (sampled)
    out += " " + format_interval(number(mean.at("ci_lo")), number(mean.at("ci_hi")), 4) + " (" +
           std::to_string(summary.at("cells").integer()) + " of " +
           std::to_string(summary.at("estimated_cells").integer()) +
           " slots were run, the others estimated by one gradient)";
  out += ".";
  if (!order.empty())
    out += " The largest mean effect is that of " + mapped_expert(experts, order[0]) + ", " +
           format_difference(experts.number(order[0], "mean"), 4) + " over " + experts.text(order[0], "cells") +
           " tokens that selected it.";
  if (sampled)
    if (const json::Ref rank = summary.at("rank_correlation").at("sampled"); !rank.is_null())
      out += " Estimates and exact effects of the random sample have a rank correlation of " +
             format_value(rank.number(), 2) + ".";
  if (const json::Ref flips = summary.at("flip_share"); !flips.is_null())
    out += " Without the slot, " + format_value(100 * flips.number(), 1) +
           " % of the later routes choose another set of experts.";
  return out;
}

std::string expert_section(const ReportTable& experts, const std::vector<size_t>& order, const std::string& metric,
                           bool sampled) {
  std::vector<HeatCell> cells;
  CsvWriter csv({"layer", "expert", "mean", "ci_lo", "ci_hi", "cells"});
  for (size_t r = 0; r < experts.n_rows(); ++r) {
    HeatCell cell;
    cell.layer = static_cast<int32_t>(experts.integer(r, "layer"));
    cell.expert = static_cast<int32_t>(experts.integer(r, "expert"));
    cell.value = experts.number(r, "mean");
    cell.text = std::isfinite(cell.value) ? format_difference(cell.value, 2) : "";
    cell.title = mapped_expert(experts, r) + "\nmean change of " + metric + " " + format_difference(cell.value, 4);
    const double lo = experts.number(r, "ci_lo"), hi = experts.number(r, "ci_hi");
    if (sampled) cell.title += " " + format_interval(lo, hi, 4);
    cell.small = sampled && !(lo > 0 || hi < 0);
    cell.title += "\n" + experts.text(r, "cells") + " tokens selected it, " + experts.text(r, "exact") + " were run";
    csv.cell(experts.integer(r, "layer")).cell(experts.integer(r, "expert")).cell(cell.value).cell(lo).cell(hi);
    csv.cell(experts.integer(r, "cells")).end_row();
    cells.push_back(std::move(cell));
  }
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < std::min(order.size(), listed_experts); ++i) {
    const size_t r = order[i];
    rows.push_back({mapped_expert(experts, r), experts.text(r, "cells"), experts.text(r, "exact"),
                    format_difference(experts.number(r, "mean"), 4)});
    if (!sampled) continue;
    rows.back().push_back(format_interval(experts.number(r, "ci_lo"), experts.number(r, "ci_hi"), 4));
    rows.back().push_back(format_difference(experts.number(r, "mean_atp"), 4));
  }
  std::vector<std::string> headings = {"expert", "tokens", "run", "mean change of " + html_escape(metric)};
  std::vector<uint8_t> numeric = {0, 1, 1, 1};
  if (sampled) {
    headings.insert(headings.end(), {"95 % interval", "mean first-order estimate"});
    numeric.insert(numeric.end(), {1, 1});
  }
  return "<h2 id=\"experts\">Experts</h2>" +
         html_figure("experts-map", heat_map(cells, "mean effect of each expert"),
                     "Mean change of " + html_escape(metric) +
                         " over the tokens that selected each expert. Blue: it rises without the expert; orange: it "
                         "falls." +
                         (sampled ? " Small squares: the interval, of the sample of these tokens, holds 0." : ""),
                     csv.text()) +
         "<p>The first " + std::to_string(rows.size()) + " of " + std::to_string(experts.n_rows()) +
         " experts by the size of their mean effect:</p>" + html_table(headings, numeric, rows);
}

}  // namespace

bool is_map_directory(const fs::path& dir) { return fs::exists(dir / file_of_map); }

std::string render_map_report(const fs::path& dir, const MapLimits& limits) {
  const auto file = safetensors::File::open(dir / file_of_map);
  const json::Value summary_json = json::parse_file(dir / "summary.json");
  const json::Ref summary(summary_json, (dir / "summary.json").string());
  const ReportTable experts(dir / "experts.csv");
  const MapExcerpt excerpt = excerpt_of(*file, limits);
  const bool sampled = !summary.at("sample").is_null();
  const std::string metric = summary.at("metric").string();
  const std::vector<size_t> order = by_size(experts);
  const size_t n_records = excerpt.offsets.size() - 1;
  std::string body = "<h1>What each expert's slot does to " + html_escape(metric) +
                     "</h1><p id=\"question\">How does " + html_escape(metric) + " change by " +
                     html_escape(taken_out(summary.at("without").string())) +
                     "?</p><h2 id=\"found\">What was found</h2><div class=\"finding\"><p>" +
                     html_escape(finding_text(summary, experts, order)) +
                     "</p><p>Effects of single slots do not add up: two experts that stand in for one another have no "
                     "effect each.</p></div><h2 id=\"maps\">Token by token</h2>";
  if (excerpt.n_tokens.size() < n_records)
    body += "<p>Showing " + std::to_string(excerpt.n_tokens.size()) + " of " + std::to_string(n_records) +
            " records; the map has the rest.</p>";
  if (n_records == 0) body += "<p>The map holds no records.</p>";
  if (n_records > 0) {
    body += json_block("map", index_of(*file, excerpt, dir, summary)) +
            bytes_block("map-effects", rows_of(*file, excerpt, "effect", 4)) +
            bytes_block("map-ids", rows_of(*file, excerpt, "router.ids", excerpt.id_bytes));
    if (sampled) body += bytes_block("map-estimates", rows_of(*file, excerpt, "atp", 4));
    body += drawn_figure(
        "slots", "slot_map", "the effect of each token's experts in every layer",
        "Tokens across, layers down. Blue: " + html_escape(metric) +
            " rises without it; orange: it falls. The text above the map has the colours of the sum over layers." +
            (sampled ? " Slots that were not run show their first-order estimate." : ""));
  }
  body += expert_section(experts, order, metric, sampled) +
          "<h2 id=\"run\">What was run</h2><details><summary>settings and counts</summary><pre>" +
          html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Map of slots: " + metric, body);
}

}  // namespace signalbox::eval
