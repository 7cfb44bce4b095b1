// Contrast pairs: two records that differ in one thing, under two conditions and one "pair".
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/csv_records.h"
#include "eval/data/prompt_template.h"

namespace signalbox::eval {

// The text before the question of a third condition: another record's document, or the own one in another order of its
// words (eval/data/other_documents.h).
enum class Against : uint8_t { unrelated, shuffled };
struct DocumentPairs {
  PromptStyle with, without;  // templates of the two conditions; a third has the first's
  bool target = false;        // the first answer becomes the target of both
  std::string prefix;         // before a target; unset: target_prefix decides
  bool prefix_given = false;
  std::vector<Against> against;  // third conditions
  uint64_t seed = 0;             // of them
  bool keep_pairs = false;       // the records are pairs already, and get third conditions only
};
struct DocumentPairResult {
  std::vector<Row> records;
  int64_t n_exchanged = 0, repeated = 0;  // unrelated documents; of these, used for two records (ExchangedDocuments)
  double mean_difference = 0;             // of their lengths and the own documents', |code points|
  int64_t largest_difference = 0;
};
// Of each record with a "question" and a "document": ID/with_document and ID/without_document, with the conditions
// with_document and without_document, and for each third condition ID/unrelated_document or ID/shuffled_document, all
// with one "pair". Spans: those of the templates' placeholders. All other keys are carried; a "condition" or "pair"
// that the source had becomes "source_condition", "source_pair". The key "document" of a third is the text that it
// shows; "document_of" is the pair that an unrelated one belongs to. Throws Error at the record's place.
//
// keep_pairs: records have the conditions and a "pair" of two already. They stay as they are; a third is the record
// without a document, with PAIR/CONDITION for its id and the prompt that the template makes. Throws Error where the
// template does not make the prompt of the record with the document, which would be another difference.
DocumentPairResult document_pairs(const std::vector<Row>& records, const DocumentPairs& options);

enum class SafeSide : uint8_t { either, data, refusals };  // where the safe completion comes from
struct CompletionPairs {
  SafeSide safe = SafeSide::either;
  uint64_t seed = 0;                            // of the refusals' order
  const ChatTemplate* chat_template = nullptr;  // for records of messages: tells target_prefix what comes before
  json::Value template_variables = json::Value::object();
  std::string prefix;
  bool prefix_given = false;
};
struct CompletionResult {
  std::vector<Row> records;
  int64_t without_unsafe = 0;  // prompts left out: no unsafe completion of theirs is known
  int64_t refusals = 0;        // pairs whose safe side is a sentence of refusal_sentences()
};
// Of each unsafe completion: ID/unsafe and ID/safe, the completion as the target, conditions unsafe and safe. A record
// holds both ("unsafe", "safe"), or "unsafe" alone, or it is one completion of several of a prompt ("response" and
// "is_safe", as BeaverTails has them): then the n-th unsafe one of a prompt is paired with its n-th safe one. Where
// there is no safe one, a refusal sentence stands in: all of them in a seeded order, again and again, so that no
// sentence is used more than once more often than another.
CompletionResult completion_pairs(const std::vector<Row>& records, const CompletionPairs& options);

// Benign sentences that decline, of many shapes.
const std::vector<std::string>& refusal_sentences();

struct SplitOptions {
  std::vector<std::pair<std::string, double>> fractions;  // names and shares; they sum to 1
  uint64_t seed = 0;
  std::string key = "split";
  std::vector<std::string> together;  // keys: records that share a value of one stay in one split
  bool replace = false;               // of a split that is there
};
// Sets `key` of each record. What must stay together does: records of one "pair", paraphrases and what they paraphrase,
// records of the same prompt or messages, and records that share a value of a key in `together`. The split of a group
// is a function of the seed and of the least of its names alone, so that records added later move none of the others.
// Throws Error for a record that has a split (unless `replace`), and when a split would be empty.
void assign_splits(std::vector<Row>& records, const SplitOptions& options);

}  // namespace signalbox::eval
