#include "tools/signalbox/route_view.h"

#include <algorithm>
#include <memory>
#include <set>

#include "base/display_width.h"
#include "base/error.h"
#include "probes/edit_spec.h"

namespace signalbox::tools {

namespace {

// Of xterm's 256 colours, middling bright, so that they are seen on black and on white.
constexpr int palette[] = {167, 34, 33, 172, 134, 37, 205, 100, 63, 30, 203, 70, 99, 136, 67, 244};
constexpr int n_colours = static_cast<int>(std::size(palette));

struct Piece {
  std::string text;
  int64_t row;
};

// The text of each token; what becomes final with a later token is that one's.
std::vector<Piece> pieces_of(const Job& job, const Result& result, const RouteViewOptions& options) {
  std::vector<Piece> pieces;
  const auto add = [&](const std::vector<int32_t>& tokens, bool skip_special, int64_t row, size_t most) {
    std::unique_ptr<TokenStream> stream = options.tokenizer ? options.tokenizer->stream(skip_special) : nullptr;
    size_t written = 0;
    const auto piece = [&](std::string text, int64_t at) {
      if (written + text.size() > most) text.resize(most - written);  // behind a stop string
      written += text.size();
      if (!text.empty()) pieces.push_back({std::move(text), at});
    };
    for (size_t i = 0; i < tokens.size(); ++i)
      piece(
          stream ? stream->push(tokens[i]) : (row + static_cast<int64_t>(i) > 0 ? " " : "") + std::to_string(tokens[i]),
          row + static_cast<int64_t>(i));
    if (stream && !tokens.empty()) piece(stream->finish(), row + static_cast<int64_t>(tokens.size()) - 1);
  };
  const int64_t n_given = job.n_given();
  if (options.prompt) add(job.prompt->tokens, false, 0, SIZE_MAX);
  add(result.tokens, true, n_given, options.tokenizer ? result.text.size() : SIZE_MAX);
  return pieces;
}

}  // namespace

void require_routers(const std::vector<int>& layers, const ModelShape& shape, const std::string& flag) {
  const std::vector<int32_t> known = shape.moe_layers();
  std::set<int> seen;
  for (const int layer : layers) {
    if (std::find(known.begin(), known.end(), layer) == known.end())
      throw UsageError(flag, "expected a layer with a router (" +
                                 (known.empty() ? "this model has none" : layer_ranges(known)) + "), found " +
                                 std::to_string(layer));
    if (!seen.insert(layer).second)
      throw UsageError(flag, "expected each layer once, found " + std::to_string(layer) + " again");
  }
}

std::string expert_look(int32_t expert) {
  // Bits of a style, what terminals know best first.
  static constexpr const char* styles[] = {"4;", "7;", "3;", "1;"};
  const int style = expert / n_colours % 16;
  std::string look = "\033[";
  for (int bit = 0; bit < 4; ++bit)
    if (style >> bit & 1) look += styles[bit];
  return look + "38;5;" + std::to_string(palette[expert % n_colours]) + "m";
}

RouteView::RouteView(RouteViewOptions options, const std::vector<Job>& jobs, std::vector<std::string> titles,
                     Write write)
    : options_(std::move(options)), jobs_(jobs), titles_(std::move(titles)), write_(std::move(write)) {}

bool RouteView::wants(Point point, int32_t layer) const {
  const bool own = point == Point::router_ids &&
                   std::find(options_.layers.begin(), options_.layers.end(), layer) != options_.layers.end();
  return own || (next_ && next_->wants(point, layer));
}

void RouteView::begin(const StepRows& rows) {
  ranges_.assign(rows.ranges.begin(), rows.ranges.end());
  if (next_) next_->begin(rows);
}

void RouteView::take(Point point, int32_t layer, const float* data, int64_t width) {
  if (next_) next_->take(point, layer, data, width);
}

void RouteView::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  const auto found = std::find(options_.layers.begin(), options_.layers.end(), layer);
  if (found != options_.layers.end())
    for (const RowRange& range : ranges_) {
      if (range.sample < next_job_) continue;
      auto& first = samples_[range.sample].first;
      first.resize(options_.layers.size());
      auto& rows = first[static_cast<size_t>(found - options_.layers.begin())];
      const auto end = static_cast<size_t>(range.first_row + range.n_rows);
      if (rows.size() < end) rows.resize(end, -1);
      for (int64_t i = 0; i < range.n_rows; ++i)
        rows[static_cast<size_t>(range.first_row + i)] = ids[(range.batch_row + i) * n_slots];
    }
  if (next_ && next_->wants(Point::router_ids, layer)) next_->take_ids(layer, ids, original_ids, n_slots);
}

void RouteView::end() {
  if (next_) next_->end();
}

void RouteView::abandon() {
  if (next_) next_->abandon();
}

void RouteView::result(Result result) {
  Sample& sample = samples_[result.index];
  sample.has_result = true;
  sample.result = std::move(result);
  print_ready();
}

bool RouteView::complete(int64_t job) const {
  const auto found = samples_.find(job);
  if (found == samples_.end() || !found->second.has_result) return false;
  const Sample& sample = found->second;
  if (sample.first.size() < options_.layers.size()) return false;
  const auto n = static_cast<size_t>(jobs_[static_cast<size_t>(job)].n_given()) + sample.result.tokens.size();
  return std::all_of(sample.first.begin(), sample.first.end(), [&](const auto& rows) {
    return rows.size() >= n && std::find(rows.begin(), rows.end(), -1) == rows.end();
  });
}

void RouteView::print_ready() {
  while (next_job_ < static_cast<int64_t>(jobs_.size()) && complete(next_job_)) {
    write_(text_of(next_job_));
    samples_.erase(next_job_++);
  }
}

void RouteView::finish(const std::function<std::vector<int32_t>(int64_t, int32_t)>& first_experts) {
  print_ready();
  for (auto& [job, sample] : samples_) {
    if (!sample.has_result) continue;
    sample.first.resize(options_.layers.size());
    for (size_t l = 0; l < options_.layers.size(); ++l)
      if (std::vector<int32_t> known = first_experts(job, options_.layers[l]); !known.empty())
        sample.first[l] = std::move(known);
    write_(text_of(job));
  }
  samples_.clear();
}

std::string RouteView::text_of(int64_t index) const {
  const Job& job = jobs_[static_cast<size_t>(index)];
  const Sample& sample = samples_.at(index);
  const std::vector<Piece> pieces = pieces_of(job, sample.result, options_);
  std::string out = titles_.empty() ? "" : titles_[static_cast<size_t>(index)] + "\n";
  for (size_t l = 0; l < options_.layers.size(); ++l) {
    std::map<int32_t, int64_t> counts;
    int64_t n = 0;
    const int64_t begin = options_.prompt ? 0 : job.n_given();
    const auto expert_of = [&](int64_t row) {
      const auto& rows = sample.first[l];
      return row < static_cast<int64_t>(rows.size()) ? rows[static_cast<size_t>(row)] : -1;
    };
    for (int64_t row = begin; row < job.n_given() + static_cast<int64_t>(sample.result.tokens.size()); ++row, ++n)
      ++counts[expert_of(row)];
    for (const Piece& piece : pieces) {
      const int32_t expert = expert_of(piece.row);
      if (!options_.colours || expert < 0 || expert >= n_looks)
        out += "[" + (expert < 0 ? "?" : std::to_string(expert)) + "]";
      out += options_.colours && expert >= 0 ? expert_look(expert) + piece.text + "\033[0m" : piece.text;
    }
    out += "\n" + legend(options_.layers[l], counts, n);
  }
  return out;
}

std::string RouteView::legend(int32_t layer, const std::map<int32_t, int64_t>& counts, int64_t n) const {
  std::vector<std::pair<int32_t, int64_t>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string line = "  layer " + std::to_string(layer) + ", first expert of " + std::to_string(n) + " tokens:";
  std::string out;
  size_t at = display_width(line);
  for (const auto& [expert, count] : order) {
    const std::string name = expert < 0 ? "not recorded" : std::to_string(expert), times = " x" + std::to_string(count);
    const size_t size = 2 + display_width(name + times);
    if (options_.width > 0 && at + size > static_cast<size_t>(options_.width)) {
      out += line + "\n";
      line = "   ";
      at = 3;
    }
    line += "  " + (options_.colours && expert >= 0 ? expert_look(expert) + name + "\033[0m" : name) + times;
    at += size;
  }
  return out + line + "\n";
}

}  // namespace signalbox::tools
