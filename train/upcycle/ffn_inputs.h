// What the feed-forward blocks of a model read on given records, all layers of all tokens, in a file without a name.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/jobs.h"
#include "engine/session.h"
#include "probes/sink.h"
#include "train/namespaces.h"

namespace signalbox::train {

class FfnInputs final : public ProbeSink {
 public:
  // `jobs`: given tokens, indices from 0 on in their order. The file takes layers * tokens * d_model * 4 bytes in
  // `directory`. Throws Error.
  FfnInputs(const Session& session, const std::vector<Job>& jobs, const std::filesystem::path& directory);
  ~FfnInputs();
  FfnInputs(const FfnInputs&) = delete;
  FfnInputs& operator=(const FfnInputs&) = delete;

  bool wants(Point point, int32_t) const override { return point == Point::resid_mid; }
  void begin(const StepRows& rows) override { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }
  void take(Point point, int32_t layer, const float* data, int64_t width) override;
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}

  int64_t n_tokens() const { return starts_.back(); }
  int64_t bytes() const;
  const std::vector<int64_t>& starts() const { return starts_; }  // [jobs + 1] where each one's rows begin

  // Rows first .. first + n of a layer, as its block reads them: after the norm. out [n, d_model].
  void read(int64_t layer, int64_t first, int64_t n, float* out) const;

 private:
  uint64_t offset(int64_t layer, int64_t row) const;
  const Session& session_;
  int64_t d_model_;
  std::vector<int64_t> starts_;
  std::vector<RowRange> ranges_;
  std::string where_;
  int descriptor_ = -1;
};

}  // namespace signalbox::train
