#include "probes/trace_merge.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "probes/trace.h"
#include "probes/trace_schema.h"

namespace signalbox::probes {

namespace fs = std::filesystem;
using safetensors::shape_text;
using safetensors::TensorHeader;
using safetensors::TensorInfo;

namespace {

constexpr size_t merge_bytes = size_t{1} << 20;

// The lines of a records.jsonl or texts.jsonl by number.
class LineFile {
 public:
  LineFile(const fs::path& file, int64_t n_lines) : name_(file.string()), in_(file, std::ios::binary) {
    if (!in_) throw Error(name_, std::string("cannot open the file: ") + std::strerror(errno));
    std::string buffer(merge_bytes, '\0');
    uint64_t end = 0;
    bool ended = true;
    while (in_.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), in_.gcount() > 0) {
      const size_t n = static_cast<size_t>(in_.gcount());
      for (size_t i = 0; i < n; ++i)
        if (buffer[i] == '\n') starts_.push_back(end + i + 1);
      end += n;
      ended = buffer[n - 1] == '\n';
    }
    if (in_.bad()) throw Error(name_, std::string("cannot read: ") + std::strerror(errno));
    if (!ended || static_cast<int64_t>(starts_.size()) != n_lines + 1)
      throw Error(name_, "expected a line for each of " + std::to_string(n_lines) + " samples, found " +
                             std::to_string(starts_.size() - 1) + (ended ? "" : " and a torn one"));
  }

  // Adds a line with its newline.
  void append(int64_t line, std::string& to) {
    const uint64_t begin = starts_[static_cast<size_t>(line)], end = starts_[static_cast<size_t>(line) + 1];
    const size_t kept = to.size();
    to.resize(kept + (end - begin));
    in_.clear();
    in_.seekg(static_cast<std::streamoff>(begin));
    if (!in_.read(to.data() + kept, static_cast<std::streamsize>(end - begin)))
      throw Error(name_, "expected as many bytes as before, found less");
  }

 private:
  std::string name_;
  std::ifstream in_;
  std::vector<uint64_t> starts_ = {0};
};

struct Part {
  std::unique_ptr<TraceReader> trace;  // has checked the file
  std::shared_ptr<const safetensors::File> file;
  std::unique_ptr<LineFile> records, texts;  // texts: null where there are none
};

// The tensors of a file in the order of its header. Those without bytes have no order in the data.
std::vector<std::string> tensor_order(const safetensors::File& file) {
  uint64_t length = 0;
  std::memcpy(&length, file.bytes().data(), sizeof length);
  const json::Value header =
      json::parse({reinterpret_cast<const char*>(file.bytes().data()) + sizeof length, length}, file.name());
  std::vector<std::string> names;
  for (const auto& member : header.members())
    if (member.first != "__metadata__") names.push_back(member.first);
  return names;
}

bool per_token(const std::string& tensor) { return tensor != "sample_offsets" && tensor != "layers"; }

// Its last dimension is the length of the longest sample.
bool of_positions(const std::string& tensor) {
  const auto at = parse_point(tensor);
  return at && point_info(at->point).positions();
}

// Throws unless two files could be parts of one trace.
void check_alike(const safetensors::File& first, const safetensors::File& other) {
  const auto fail = [&](const std::string& what, const std::string& expected, const std::string& found) {
    throw Error(other.name(), what + ": expected " + expected + " as in " + first.name() + ", found " + found);
  };
  const auto text = [](const std::map<std::string, std::string>& metadata, const std::string& key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string("none") : "\"" + found->second.substr(0, 80) + "\"";
  };
  std::map<std::string, std::string> keys = first.metadata();
  keys.insert(other.metadata().begin(), other.metadata().end());
  for (const auto& [key, unused] : keys) {
    if (key == "samples") continue;
    const auto a = first.metadata().find(key), b = other.metadata().find(key);
    if (a == first.metadata().end() || b == other.metadata().end() || a->second != b->second)
      fail("metadata " + key, text(first.metadata(), key), text(other.metadata(), key));
  }
  const std::vector<std::string> names = tensor_order(first), others = tensor_order(other);
  for (size_t i = 0; i < std::max(names.size(), others.size()); ++i)
    if (i >= names.size() || i >= others.size() || names[i] != others[i])
      fail("tensors", i < names.size() ? "\"" + names[i] + "\"" : "no more",
           i < others.size() ? "\"" + others[i] + "\"" : "no more");
  for (const std::string& name : names) {
    if (name == "sample_offsets") continue;
    const TensorInfo &a = first.at(name), &b = other.at(name);
    const size_t from = per_token(name) ? 1 : 0, not_compared = of_positions(name) ? 1 : 0;
    if (a.dtype != b.dtype || a.shape.size() != b.shape.size() ||
        !std::equal(a.shape.begin() + from, a.shape.end() - not_compared, b.shape.begin() + from))
      fail("tensor \"" + name + "\"", a.dtype + " " + shape_text(a.shape), b.dtype + " " + shape_text(b.shape));
    if (name == "layers" && (first.check_unchanged(), std::memcmp(first.data(a), other.data(b), a.bytes) != 0))
      fail("tensor \"layers\"", "the layers", "others");
  }
}

std::vector<Part> open_parts(std::span<const fs::path> dirs) {
  std::vector<Part> parts;
  for (const fs::path& dir : dirs) {
    Part part;
    part.trace = std::make_unique<TraceReader>(dir);
    part.file = safetensors::File::open(dir / trace_file);
    part.records = std::make_unique<LineFile>(dir / records_file, part.trace->n_samples());
    if (fs::exists(dir / texts_file))
      part.texts = std::make_unique<LineFile>(dir / texts_file, part.trace->n_samples());
    parts.push_back(std::move(part));
    check_alike(*parts.front().file, *parts.back().file);
    if (!parts.front().texts != !parts.back().texts)
      throw Error(dir.string(), std::string("expected ") + (parts.front().texts ? "" : "no ") + texts_file + " as in " +
                                    dirs[0].string() + ", found " + (parts.back().texts ? "one" : "none"));
  }
  return parts;
}

// The rows of one tensor, sample after sample; samples that stand together in a part go in one piece.
void write_rows(safetensors::Writer& writer, const std::vector<Part>& parts, std::span<const TracePick> order,
                const std::string& tensor, size_t row_bytes) {
  for (size_t i = 0; i < order.size();) {
    const Part& part = parts[static_cast<size_t>(order[i].part)];
    TraceReader::Rows rows = part.trace->rows(order[i].sample);
    size_t next = i + 1;
    for (; next < order.size() && order[next].part == order[i].part; ++next) {
      const TraceReader::Rows more = part.trace->rows(order[next].sample);
      if (more.begin != rows.end) break;
      rows.end = more.end;
    }
    const std::byte* data = part.file->data(part.file->at(tensor));
    part.file->check_unchanged();
    for (size_t done = static_cast<size_t>(rows.begin) * row_bytes, end = static_cast<size_t>(rows.end) * row_bytes;
         done < end;) {
      const size_t n = std::min(merge_bytes, end - done);
      writer.write(data + done, n);
      done += n;
    }
    i = next;
  }
}

// The same where a row's last dimension differs from part to part: [heads, n_positions] of each, cut off or filled up
// with zeros.
void write_patterns(safetensors::Writer& writer, const std::vector<Part>& parts, std::span<const TracePick> order,
                    const std::string& tensor, int64_t n_positions) {
  std::vector<float> row;
  for (const TracePick& pick : order) {
    const Part& part = parts[static_cast<size_t>(pick.part)];
    const TensorInfo& info = part.file->at(tensor);
    const int64_t heads = info.shape[1], found = info.shape[2], n = std::min(found, n_positions);
    const TraceReader::Rows rows = part.trace->rows(pick.sample);
    const std::byte* data = part.file->data(info) + rows.begin * heads * found * static_cast<int64_t>(sizeof(float));
    part.file->check_unchanged();
    row.assign(static_cast<size_t>(heads * n_positions), 0.f);
    for (int64_t r = 0; r < rows.size(); ++r) {
      for (int64_t h = 0; h < heads; ++h)
        std::memcpy(row.data() + h * n_positions, data + (r * heads + h) * found * static_cast<int64_t>(sizeof(float)),
                    static_cast<size_t>(n) * sizeof(float));
      writer.write(row.data(), row.size() * sizeof(float));
    }
  }
}

void check_order(const std::vector<Part>& parts, std::span<const TracePick> order) {
  for (const TracePick& pick : order)
    if (pick.part < 0 || pick.part >= static_cast<int32_t>(parts.size()) || pick.sample < 0 ||
        pick.sample >= parts[static_cast<size_t>(pick.part)].trace->n_samples())
      throw Error("trace", "expected samples of the parts, found sample " + std::to_string(pick.sample) + " of part " +
                               std::to_string(pick.part));
}

}  // namespace

void merge_traces(const fs::path& dir, std::span<const fs::path> dirs, std::span<const TracePick> order) {
  if (dirs.empty()) throw Error(dir.string(), "expected at least one trace to merge, found none");
  std::vector<Part> parts = open_parts(dirs);
  check_order(parts, order);
  const safetensors::File& model = *parts.front().file;

  std::vector<int64_t> offsets = {0};
  int64_t longest = 0;
  json::Value samples = json::Value::array();
  for (const TracePick& pick : order) {
    const TraceReader& trace = *parts[static_cast<size_t>(pick.part)].trace;
    samples.push_back(trace.sample_ids()[static_cast<size_t>(pick.sample)]);
    offsets.push_back(offsets.back() + trace.rows(pick.sample).size());
    longest = std::max(longest, trace.rows(pick.sample).size());
  }
  std::map<std::string, std::string> metadata = model.metadata();
  metadata["samples"] = json::dump(samples);

  std::vector<TensorHeader> headers;
  std::vector<size_t> row_bytes;
  for (const std::string& name : tensor_order(model)) {
    const TensorInfo& info = model.at(name);
    TensorHeader header{name, info.dtype, info.shape};
    if (of_positions(name)) header.shape.back() = longest;
    if (per_token(name)) header.shape[0] = 1;
    row_bytes.push_back(static_cast<size_t>(header.bytes()));
    if (per_token(name)) header.shape[0] = offsets.back();
    if (name == "sample_offsets") header.shape = {static_cast<int64_t>(offsets.size())};
    headers.push_back(std::move(header));
  }

  std::error_code failed;
  fs::create_directories(dir, failed);
  if (failed) throw Error(dir.string(), "cannot make the directory: " + failed.message());
  AtomicFile records(dir / records_file);
  safetensors::Writer trace(dir / trace_file, headers, metadata);
  for (size_t i = 0; i < headers.size(); ++i) {
    if (headers[i].name == "sample_offsets")
      trace.write(offsets.data(), offsets.size() * sizeof(int64_t));
    else if (headers[i].name == "layers")
      trace.write(model.data(model.at("layers")), row_bytes[i]);
    else if (of_positions(headers[i].name))
      write_patterns(trace, parts, order, headers[i].name, longest);
    else
      write_rows(trace, parts, order, headers[i].name, row_bytes[i]);
  }
  const auto write_lines = [&](AtomicFile& file, std::unique_ptr<LineFile> Part::*from) {
    std::string lines;
    for (const TracePick& pick : order) {
      (parts[static_cast<size_t>(pick.part)].*from)->append(pick.sample, lines);
      if (lines.size() < merge_bytes) continue;
      file.write(lines);
      lines.clear();
    }
    file.write(lines);
    file.commit();
  };
  if (parts.front().texts) {
    AtomicFile texts(dir / texts_file);
    write_lines(texts, &Part::texts);
  }
  write_lines(records, &Part::records);
  trace.finish();
}

}  // namespace signalbox::probes
