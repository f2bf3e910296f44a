// What Dawn wants of a source beyond what naga wants.

const SUBGROUPS = /\bsubgroup[A-Z]\w*\(|@builtin\(subgroup_/;

// `enable f16;` stands in the sources; naga refuses the line that Tint demands for subgroups.
export function forDawn(source) {
    return SUBGROUPS.test(source) ? `enable subgroups;\n${source}` : source;
}

// The features that a source for Dawn announces.
export function features(source) {
    const announced = [
        ['f16', 'shader-f16'],
        ['subgroups', 'subgroups'],
    ];
    return announced.filter(([word]) => new RegExp(`^enable ${word};`, 'm').test(source)).map(([, feature]) => feature);
}
