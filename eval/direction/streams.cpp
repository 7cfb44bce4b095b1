#include "eval/direction/streams.h"

#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/row_spool.h"
#include "base/text.h"
#include "engine/forward.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

// Adds up rows of resid_out as they come: whole jobs, one batch. Samples are those of `jobs` from `first` on.
class MeanSink : public ProbeSink {
 public:
  MeanSink(std::span<const std::vector<int64_t>> positions, int64_t n_layers, int64_t d)
      : positions_(positions), d_(d), sums_(positions.size(), std::vector<double>(static_cast<size_t>(n_layers * d))) {}
  bool wants(Point point, int32_t) const override { return point == Point::resid_out; }
  void begin(const StepRows& rows) override { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }
  void take(Point, int32_t layer, const float* data, int64_t width) override {
    for (const RowRange& range : ranges_) {
      const auto sample = static_cast<size_t>(range.sample);
      double* to = sums_[sample].data() + layer * d_;
      for (const int64_t t : positions_[sample]) {
        if (t < range.first_row || t >= range.first_row + range.n_rows) continue;
        const float* row = data + (range.batch_row + t - range.first_row) * width;
        for (int64_t c = 0; c < d_; ++c) to[c] += double{row[c]};
      }
    }
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
  std::vector<float> mean(size_t sample) const {
    std::vector<float> out;
    for (const double sum : sums_[sample])
      out.push_back(static_cast<float>(sum / static_cast<double>(positions_[sample].size())));
    return out;
  }

 private:
  std::span<const std::vector<int64_t>> positions_;
  int64_t d_;
  std::vector<std::vector<double>> sums_;  // [samples][layers, d]
  std::vector<RowRange> ranges_;
};

// Means on disk, one row a record, which a line names with their place and hash.
class KeptMeans {
 public:
  KeptMeans(const Kept& kept, const std::vector<Job>& jobs, StreamMeans& means) : means_(means) {
    std::vector<std::string> ids;
    for (const Job& job : jobs) ids.push_back(job.prompt->id);
    items_ = std::make_unique<KeptItems>(kept, std::move(ids), "records");
    if (kept.stem.empty()) return;
    const size_t floats = static_cast<size_t>(means.n_layers * means.d);
    rows_ = std::make_unique<RowSpool>(kept.stem.string() + ".rows", floats * sizeof(float), RowSpool::Lifetime::file);
    std::vector<size_t> lost;  // rows that did not reach the disk
    for (size_t i = 0; i < jobs.size(); ++i) {
      const json::Value line = items_->find(i);
      if (line.is_null()) continue;
      const json::Ref of(line, kept.stem.string() + ".jsonl");
      const RowSpool::Extent at{static_cast<uint64_t>(of.at("offset").size(int64_t{1} << 60)), 1};
      if (const auto hash = rows_->hash(std::span(&at, 1)); hash && hex64(*hash) == of.at("hash").string())
        rows_->restore(static_cast<int64_t>(i), std::span(&at, 1));
      else
        lost.push_back(i);
    }
    items_->forget(lost);
  }
  bool has(size_t record) const { return items_->has(record); }
  void put(size_t record, const std::vector<float>& mean) {
    if (!rows_) {
      std::copy(mean.begin(), mean.end(), row(record));
      return;
    }
    rows_->append(static_cast<int64_t>(record), reinterpret_cast<const std::byte*>(mean.data()), 1);
    const auto extents = rows_->settle(static_cast<int64_t>(record));
    const auto offset = static_cast<int64_t>(extents.front().offset);
    items_->put(record, json::Value::object().set("offset", offset).set("hash", hex64(*rows_->hash(extents))));
  }
  void sync() {
    if (rows_) rows_->sync();
    items_->sync();
  }
  // All are there: into the means.
  void finish() {
    items_->finish();
    if (!rows_) return;
    std::vector<std::byte> buffer(static_cast<size_t>(means_.n_layers * means_.d) * sizeof(float));
    size_t record = 0;
    rows_->read_all(buffer,
                    [&](const std::byte* bytes, int64_t) { std::memcpy(&*row(record++), bytes, buffer.size()); });
  }

 private:
  std::vector<float>::iterator row(size_t record) {
    return means_.values.begin() + static_cast<int64_t>(record) * means_.n_layers * means_.d;
  }
  StreamMeans& means_;
  std::unique_ptr<KeptItems> items_;
  std::unique_ptr<RowSpool> rows_;
};

}  // namespace

std::optional<StreamMeans> mean_streams(const Session& session, const std::vector<Job>& jobs,
                                        const std::vector<std::vector<int64_t>>& positions, const StreamRun& run) {
  StreamMeans means{static_cast<int64_t>(jobs.size()), session.model.n_layers(), session.model.d_model, {}};
  means.values.resize(jobs.size() * static_cast<size_t>(means.n_layers * means.d));
  KeptMeans kept(run.kept, jobs, means);
  Forward forward = session.forward(0);
  int64_t done = 0;
  const auto progress = [&](int64_t tokens) {
    done += tokens;
    if (run.on_progress) run.on_progress(done);
  };
  for (size_t next = 0; next < jobs.size();) {
    if (run.interrupted && *run.interrupted) {
      kept.sync();
      return std::nullopt;
    }
    std::vector<size_t> group;
    int64_t n_tokens = 0, n_blocks = 0;
    for (; next < jobs.size(); ++next) {
      const int64_t n = jobs[next].n_given();
      if (kept.has(next)) {
        progress(n);
        continue;
      }
      if (static_cast<int64_t>(group.size()) >= std::max<int64_t>(1, run.batch) ||
          (!group.empty() && n_tokens + n > run.batch_tokens))
        break;
      group.push_back(next);
      n_tokens += n;
      n_blocks += KvPool::blocks_for(n);
    }
    if (group.empty()) break;
    KvPool pool(*session.backend, session.model, n_blocks);
    std::vector<SequenceCache> sequences;
    sequences.reserve(group.size());
    std::vector<std::vector<int64_t>> of_group;
    Batch batch;
    for (size_t k = 0; k < group.size(); ++k) {
      const Job& job = jobs[group[k]];
      sequences.emplace_back(pool);
      of_group.push_back(positions[group[k]]);
      batch.append(sequences.back(), nullptr, static_cast<int64_t>(k), job.prompt->tokens, {}, job.n_given(), 0);
    }
    MeanSink sink(of_group, means.n_layers, means.d);
    forward.run(batch, &sink);
    forward.flush(sink);
    for (size_t k = 0; k < group.size(); ++k) kept.put(group[k], sink.mean(k));
    progress(n_tokens);
  }
  kept.finish();
  return means;
}

}  // namespace signalbox::eval
