// Bytes of a connection to requests. Beast's parser reads them; what it takes and should not is refused around it.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/namespaces.h"
#include "tools/serve/request_head.h"

namespace signalbox::tools {

// One request after the other:
//
//   put() until stage() is head_done; whoever judges heads looks at head(); take_body(limit); put() until done; take().
class RequestReader {
 public:
  enum class Stage : uint8_t { head, head_done, body, done };

  explicit RequestReader(HeadLimits limits = {});
  ~RequestReader();

  // Takes bytes; returns how many it used: those left over come again with more behind them, or belong to what follows.
  // Throws ApiError, after which the connection is good for nothing more.
  size_t put(std::string_view bytes);

  Stage stage() const { return stage_; }
  const RequestHead& head() const { return request_.head; }
  // From head_done on: the body follows, of at most so many bytes. Throws ApiError (413).
  void take_body(int64_t limit);
  int64_t body_bytes() const;  // so far
  // Of a request that is done; the next one may come.
  HttpRequest take();

 private:
  size_t put_head(std::string_view bytes);
  size_t put_body(std::string_view bytes);

  HeadLimits limits_;
  Stage stage_ = Stage::head;
  HttpRequest request_;
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace signalbox::tools
