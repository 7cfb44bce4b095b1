#include "eval/data/domain_prompts.h"

#include <cstdio>

#include "base/error.h"

namespace signalbox::eval {

namespace {

struct Domain {
  const char* name;
  std::vector<const char*> prompts;
};

// Requests of one or two sentences and of like length in every domain, so that length does not stand for domain.
// "mixed" asks for two kinds of work in one text.
const std::vector<Domain>& domains() {
  static const std::vector<Domain> all = {
      {"code",
       {
           "Write a Python class for a binary search tree with methods to insert a key, to find one, and to list all "
           "keys "
           "in order.",
           "Write a C function that reverses a singly linked list in place, and say in comments what each pointer "
           "holds.",
           "Implement a queue in Java by means of two stacks. Add a small main method that shows that the order is "
           "kept.",
           "Write a shell script that goes through a folder and prints the five largest files with their sizes.",
           "Write a SQL query over the tables orders and customers that gives, for every month, the customer who spent "
           "the "
           "most.",
           "Implement merge sort in JavaScript without changing the array that is passed in.",
           "Write a Rust function that counts how often each word occurs in a string and returns a map.",
           "Write a Python decorator that remembers the results of a function and forgets the oldest when there are "
           "more "
           "than a hundred.",
           "Write a regular expression for dates such as 2031-07-04, and a short program that tries it on six strings.",
           "Write a Go program that reads lines from standard input in one goroutine and counts their characters in "
           "another.",
       }},
      {"mathematics",
       {
           "A train leaves at noon and drives 80 kilometres an hour; another leaves the same station an hour later at "
           "110. "
           "Work out, step by step, when the second one catches up.",
           "Show that the sum of the first n odd numbers is n squared, first for n = 4 and then in general.",
           "A rectangle has a perimeter of 54 metres and is twice as long as it is wide. Find its area and show each "
           "step.",
           "Solve the system 3x + 2y = 19 and x - 4y = -3, and check the solution in both equations.",
           "Two fair dice are thrown. Compute the probability that the larger number is exactly 5, and explain the "
           "counting.",
           "Differentiate f(x) = x^2 sin(3x), and find the slope of the curve at x = 0.",
           "A tank loses a tenth of its water each day. After how many days is less than half of it left? Explain the "
           "calculation.",
           "Prove that the square root of 3 is not a rational number.",
           "Find the greatest common divisor of 1134 and 756 by Euclid's algorithm, writing down every division.",
           "In how many ways can five books stand on a shelf if two of them must stay side by side? Explain the "
           "answer.",
       }},
      {"creative",
       {
           "Tell the story of a machine that learns what friendship is. Let the reader hear, smell and feel the place.",
           "Write a poem about the last lamp that is still lit in a street by the harbour.",
           "Begin a novel with a letter that arrives forty years late, and let its reader be afraid to open it.",
           "Write a dialogue between the moon and a lighthouse keeper who has stopped believing in ships.",
           "Describe a market in a city under the sea through the eyes of a child who has come for the first time.",
           "Write a fairy tale in which the dragon is the one who needs to be rescued.",
           "Tell of an old clockmaker who finds that one of her clocks runs towards yesterday.",
           "Write a short scene in which two strangers share an umbrella and neither says where they are going.",
           "Write a lullaby that a mountain might sing to the snow that falls on it.",
           "Imagine a library whose books change while nobody reads them, and follow its keeper through one night.",
       }},
      {"factual",
       {
           "Explain how CRISPR is used to change a gene, and what the guide and the enzyme each do.",
           "Explain why the seasons change over the year, and why they are opposite in the two hemispheres.",
           "Describe how a bill becomes a law in a parliament with two chambers.",
           "Explain what happens in the heart during one beat, from the filling of the chambers to the closing of the "
           "valves.",
           "Describe how mountains form where two continental plates meet, with one range as an example.",
           "Explain how a vaccine prepares the immune system for a disease that it has never met.",
           "Describe the causes of the fall of the Western Roman Empire that historians name most often.",
           "Explain how a refrigerator moves heat from its inside to the room around it.",
           "Describe what coral reefs are made of, how they grow, and what bleaching does to them.",
           "Explain how the printing press changed the spread of knowledge in Europe.",
       }},
      {"mixed",
       {
           "Compare quicksort and merge sort in words, and then write the faster one for almost sorted data in Python.",
           "Write a short story whose hero has to compute a compound interest of 4 percent over ten years to save the "
           "farm.",
           "Explain what photosynthesis is, and then write a poem about it for children.",
           "Tell the history of the number zero, and then show why division by it is left undefined.",
           "Write a Python function that simulates a coin being tossed, and compute by hand what it should print on "
           "average.",
           "Explain how rainbows form, and derive the angle at which light leaves a drop after one reflection.",
           "Write a dialogue in which a teacher explains recursion to a baker, with a small program at its end.",
           "Describe the water cycle, and then write a class in Java that models its stages.",
           "Explain what inflation is, compute the price of a loaf after five years at 3 percent, and end with a joke.",
           "Write a letter from Ada Lovelace to a programmer of today that contains a loop in a language of her "
           "choice.",
       }},
  };
  return all;
}

}  // namespace

std::vector<Record> domain_prompts(bool as_messages) {
  std::vector<Record> records;
  for (const Domain& domain : domains())
    for (size_t i = 0; i < domain.prompts.size(); ++i) {
      char number[32];
      std::snprintf(number, sizeof number, "-%02zu", i + 1);
      json::Value record = json::Value::object();
      record.set("id", domain.name + std::string(number));
      if (as_messages) {
        json::Value message = json::Value::object();
        message.set("role", "user").set("content", domain.prompts[i]);
        record.set("messages", json::Value::array().push_back(std::move(message)));
      } else {
        record.set("prompt", domain.prompts[i]);
      }
      record.set("domain", domain.name);
      records.push_back(parse_record(record, "the prompt " + record.find("id")->string()));
    }
  return records;
}

void require_domains(const std::vector<Record>& records) {
  for (const Record& record : records)
    if (record.domain.empty())
      throw Error(record.where, "expected a key \"domain\" that says which domain the record belongs to, found none");
}

}  // namespace signalbox::eval
