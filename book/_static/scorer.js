/* The order of what a search finds: chapters before the reference to the code and the solutions. */
var Scorer = {
  score: ([page, , , , score]) => score - (/\/(api|solutions\/.*)$/.test(page) ? 25 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
