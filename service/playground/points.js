/** TODO */

export function start(panel) {}
