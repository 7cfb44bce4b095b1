#include "eval/routing/trace_set.h"

#include <algorithm>
#include <fstream>
#include <map>

#include "base/near_names.h"
#include "base/text.h"
#include "eval/data/prompt_hash.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

namespace {

std::string header_text(const json::Ref& object, std::string_view key) {
  const auto found = object.find(key);
  return found ? found->string() : std::string();
}

void check_same(const TraceReader& first, const TraceReader& other) {
  const auto fail = [&](const std::string& what, const std::string& expected, const std::string& found) {
    throw Error(other.file(), "expected the " + what + " of " + first.file() + ", " + expected + ", found " + found);
  };
  if (first.metadata("model_hash") != other.metadata("model_hash"))
    fail("model_hash", "\"" + first.metadata("model_hash") + "\"", "\"" + other.metadata("model_hash") + "\"");
  if (first.n_experts() != other.n_experts())
    fail("number of experts", std::to_string(first.n_experts()), std::to_string(other.n_experts()));
  if (first.layers() == other.layers()) return;
  const auto shown = [](const std::vector<int32_t>& layers) {
    const auto number = [](int32_t layer) { return std::to_string(layer); };
    return layers.empty() ? "none" : joined(layers, ",", number);
  };
  fail("recorded layers", shown(first.layers()), shown(other.layers()));
}

// texts.jsonl of a trace, where there is one: line by line beside records.jsonl.
class Texts {
 public:
  explicit Texts(const std::filesystem::path& dir) : file_(dir / "texts.jsonl"), in_(file_, std::ios::binary) {}

  // The text that the model saw of this line's record; empty where nothing says.
  std::string next(const std::string& id) {
    std::string line;
    if (!in_.is_open() || !std::getline(in_, line)) return "";
    const std::string where = file_.string() + ":" + std::to_string(++n_);
    const json::Value parsed = json::parse(line, where);
    const json::Ref object(parsed, where);
    object.expect_object();
    if (object.at("id").string() != id)
      throw Error(where, "expected the record \"" + id + "\", as in " + records_file + ", found \"" +
                             object.at("id").string() + "\"");
    const json::Value* text = parsed.find("text");
    return text && text->is_string() ? text->string() : std::string();
  }

 private:
  const std::filesystem::path file_;
  std::ifstream in_;
  int64_t n_ = 0;
};

// `text`: what the model saw, or empty.
std::vector<std::string> prompts_of(const json::Value& line, const std::string& text) {
  std::vector<std::string> hashes;
  const auto add = [&](const std::string& hash) {
    if (!hash.empty() && std::find(hashes.begin(), hashes.end(), hash) == hashes.end()) hashes.push_back(hash);
  };
  if (!text.empty() && !line.find("prompt")) add(prompt_hash(text));
  add(line_prompt_hash(line));
  const json::Value* base = line.find("base_prompt");
  if (!hashes.empty() && base && base->is_string()) add(base->string());
  return hashes;
}

template <class Get>
std::vector<std::string> distinct(const std::vector<TraceRecord>& records, Get get) {
  std::vector<std::string> out;
  for (const TraceRecord& record : records) {
    const std::string& value = get(record);
    if (!value.empty() && std::find(out.begin(), out.end(), value) == out.end()) out.push_back(value);
  }
  return out;
}

}  // namespace

Phase parse_phase(std::string_view text, const std::string& where) {
  for (Phase phase : {Phase::all, Phase::given, Phase::generated})
    if (text == phase_name(phase)) return phase;
  throw Error(where, "expected \"all\", \"given\" or \"generated\", found \"" + std::string(text) + "\"");
}

TraceSet::TraceSet(const std::vector<std::filesystem::path>& directories) : directories_(directories) {
  if (directories.empty()) throw Error("traces", "expected at least one directory, found none");
  std::map<std::string, size_t> seen;  // a record's line as JSON -> its place
  for (size_t t = 0; t < directories.size(); ++t) {
    for (size_t i = 0; i < t; ++i) {
      std::error_code failed;
      if (std::filesystem::equivalent(directories[i], directories[t], failed))
        throw Error(directories[t].string(), "expected each trace once, found it twice");
    }
    traces_.push_back(std::make_unique<TraceReader>(directories[t]));
    const TraceReader& trace = *traces_.back();
    if (!trace.has("router.ids")) throw Error(trace.file(), "expected routes (router.ids), found none");
    check_same(*traces_[0], trace);
    read_records_of(t, seen);
  }
}

void TraceSet::read_records_of(size_t t, std::map<std::string, size_t>& seen) {
  const std::filesystem::path file = directories_[t] / records_file;
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(file.string(), "expected the trace's records, found no file that can be read");
  const std::vector<std::string>& ids = traces_[t]->sample_ids();
  Texts texts(directories_[t]);
  int64_t n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const std::string where = file.string() + ":" + std::to_string(n + 1);
    const json::Value parsed = json::parse(line, where);
    const json::Ref object(parsed, where);
    object.expect_object();
    TraceRecord record{object.at("id").string(), header_text(object, "condition"), header_text(object, "pair"),
                       header_text(object, "domain")};
    if (n >= traces_[t]->n_samples())
      throw Error(where, "expected " + std::to_string(traces_[t]->n_samples()) +
                             " lines, as many as the trace has samples, found more");
    if (record.id != ids[static_cast<size_t>(n)])
      throw Error(where, "expected the record \"" + ids[static_cast<size_t>(n)] + "\", as in " + traces_[t]->file() +
                             ", found \"" + record.id + "\"");
    const std::string text = texts.next(record.id);
    const auto [at, added] = seen.try_emplace(json::dump(parsed), records_.size());
    if (added) {
      record.prompts = prompts_of(parsed, text);
      records_.push_back(std::move(record));
    }
    samples_.push_back({t, n, at->second});
  }
  if (in.bad()) throw Error(file.string(), "cannot read the file");
  if (n < traces_[t]->n_samples())
    throw Error(file.string(), "expected " + std::to_string(traces_[t]->n_samples()) +
                                   " lines, as many as the trace has samples, found " + std::to_string(n));
}

void TraceSet::name_prompts(const std::map<std::string, std::vector<std::string>>& by_id) {
  for (TraceRecord& record : records_)
    if (const auto found = by_id.find(record.id); found != by_id.end()) record.prompts = found->second;
}

bool TraceSet::has(std::string_view tensor) const {
  return std::all_of(traces_.begin(), traces_.end(), [&](const auto& trace) { return trace->has(tensor); });
}

std::vector<std::string> TraceSet::conditions() const {
  return distinct(records_, [](const TraceRecord& record) -> const std::string& { return record.condition; });
}

std::vector<std::string> TraceSet::domains() const {
  return distinct(records_, [](const TraceRecord& record) -> const std::string& { return record.domain; });
}

std::vector<uint8_t> counted_tokens(const TraceReader& trace, TraceReader::Rows rows, const TokenFilter& filter) {
  std::vector<uint8_t> counted(static_cast<size_t>(rows.size()), 1);
  if (!filter.span.empty()) {
    const std::vector<std::string>& names = trace.span_names();
    const auto found = std::find(names.begin(), names.end(), filter.span);
    if (found == names.end()) {
      throw Error(trace.file(), wrong_name("a span of the trace", filter.span, names));
    }
    const auto bit = found - names.begin();
    const std::vector<uint32_t> spans = trace.spans(rows);
    for (size_t i = 0; i < counted.size(); ++i) counted[i] = spans[i] >> bit & 1;
  }
  if (filter.phase != Phase::all) {
    const std::vector<uint8_t> phase = trace.phase(rows);
    for (size_t i = 0; i < counted.size(); ++i) counted[i] &= (phase[i] != 0) == (filter.phase == Phase::generated);
  }
  return counted;
}

void for_each_block(
    const TraceSet& set, const TokenFilter& filter,
    const std::function<void(const TraceSample&, TraceReader::Rows, const std::vector<uint8_t>& counted)>& take) {
  for (const TraceSample& sample : set.samples()) {
    const TraceReader& trace = set.trace(sample.trace);
    const TraceReader::Rows all = trace.rows(sample.index);
    for (int64_t begin = all.begin; begin < all.end; begin += block_rows) {
      const TraceReader::Rows rows{begin, std::min(begin + block_rows, all.end)};
      take(sample, rows, counted_tokens(trace, rows, filter));
    }
  }
}

json::Value traces_summary(const TraceSet& set) {
  json::Value traces = json::Value::array();
  for (size_t t = 0; t < set.n_traces(); ++t) {
    const TraceReader& trace = set.trace(t);
    json::Value one = json::Value::object();
    one.set("model", trace.metadata("model")).set("model_hash", trace.metadata("model_hash"));
    one.set("edits", trace.metadata("edits")).set("samples", trace.n_samples()).set("tokens", trace.n_tokens());
    traces.push_back(std::move(one));
  }
  return traces;
}

}  // namespace signalbox::eval
