#include "engine/adapters.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/thread_pool.h"
#include "engine/matrix_values.h"

namespace signalbox::engine {

namespace {

// What adapters do to one tensor.
struct Change {
  std::vector<const Adapter*> products;
  const WholeTensor* whole = nullptr;
  const std::string* whole_of = nullptr;
};

Matrix f32_matrix(const float* values, int64_t rows, int64_t cols) {
  Matrix matrix;
  matrix.data = values;
  matrix.rows = rows;
  matrix.cols = matrix.row_stride = cols;
  return matrix;
}

}  // namespace

void add_product(std::span<float> values, const Adapter& adapter) {
  const auto rank = static_cast<size_t>(adapter.a.rows), cols = static_cast<size_t>(adapter.a.cols);
  const auto *a = static_cast<const float*>(adapter.a.data), *b = static_cast<const float*>(adapter.b.data);
  std::vector<float> sum(cols);
  for (size_t r = 0; r < values.size() / cols; ++r) {
    std::fill(sum.begin(), sum.end(), 0.f);
    for (size_t k = 0; k < rank; ++k) {
      const float factor = b[r * rank + k];
      for (size_t c = 0; c < cols; ++c) sum[c] += factor * a[k * cols + c];
    }
    float* row = values.data() + r * cols;
    for (size_t c = 0; c < cols; ++c) row[c] += adapter.scale * sum[c];
  }
}

void merge_adapters(Model& model, Weights& weights, std::span<const ModelAdapter> adapters, int threads) {
  std::map<std::string, Change> changes;
  for (const ModelAdapter& adapter : adapters) {
    for (const WholeTensor& one : adapter.whole) {
      Change& change = changes[weight_name(one.id)];
      if (change.whole)
        throw Error(adapter.name, "expected adapters that keep different tensors whole, found " + weight_name(one.id) +
                                      " of " + *change.whole_of + ", too");
      change.whole = &one;
      change.whole_of = &adapter.name;
    }
    for (const AdaptedMatrix& one : adapter.matrices) changes[weight_name(one.id)].products.push_back(&one.adapter);
  }
  if (model.tied_embeddings && (changes.contains("embed") || changes.contains("lm_head"))) {
    weights.lm_head = weights.embed;
    model.tied_embeddings = false;
  }
  struct Copy {
    TensorPlace place;
    const Change* change = nullptr;
    std::shared_ptr<std::vector<float>> values;
  };
  std::vector<Copy> copies;
  for_each_tensor(model, weights, [&](const TensorPlace& place) {
    if (const auto found = changes.find(weight_name(place.id)); found != changes.end())
      copies.push_back({place, &found->second, nullptr});
  });
  ThreadPool pool(std::max(1, threads));
  pool.parallel_for(static_cast<int64_t>(copies.size()), [&](int64_t i, int) {
    Copy& copy = copies[static_cast<size_t>(i)];
    const TensorPlace& place = copy.place;
    copy.values = std::make_shared<std::vector<float>>(static_cast<size_t>(place.rows * place.cols));
    const WholeTensor* whole = copy.change->whole;
    if (place.vector) {
      std::copy_n(whole ? whole->vector.data : place.vector->data, copy.values->size(), copy.values->data());
    } else {
      read_matrix(copy.values->data(), whole ? whole->matrix : *place.matrix);
      for (const Adapter* adapter : copy.change->products) add_product(*copy.values, *adapter);
    }
  });
  for (const Copy& copy : copies) {
    if (copy.place.vector) {
      *copy.place.vector = {copy.values->data(), copy.place.cols};
    } else {
      *copy.place.matrix = f32_matrix(copy.values->data(), copy.place.rows, copy.place.cols);
    }
    weights.owners.push_back(copy.values);
  }
}

}  // namespace signalbox::engine
